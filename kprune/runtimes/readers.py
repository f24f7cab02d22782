"""Which runtimes do not read a file that another runs: as rules, each from a trial.

Where the runtime is installed, it is asked, and a rule that no longer holds says nothing.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

from kprune.formats.tflite.operators import tflite_operators
from kprune.formats.tflite.sparsity import in_blocks
from kprune.runtimes.openvino import OpenVINO
from kprune.runtimes.openvino import is_tflite as _is_tflite

_WITH_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a runtime does not read.

    Attributes:
        runtime: its name, as a `Target` has it.
        version: of the runtime that it was tried in.
        what: what is in the file that it does not read.
        found: function from a file's bytes to whether that is in it.
        source: what came of the trial.
    """

    runtime: str
    version: str
    what: str
    found: Callable[[bytes], bool]
    source: str


def _sparse_initializers(blob):
    import onnx

    return not _is_tflite(blob) and bool(onnx.ModelProto.FromString(blob).graph.sparse_initializer)


def _loops(blob):
    import onnx

    if _is_tflite(blob):
        return False
    return any(node.op_type == "Loop" for node in onnx.ModelProto.FromString(blob).graph.node)


def _blocks(blob):
    return _is_tflite(blob) and bool(in_blocks(blob))


def _sparse(blob):
    return _is_tflite(blob) and any(t.sparse for _, uses in tflite_operators(blob) for t in uses)


def _float16(blob):
    return _is_tflite(blob) and any(
        name == "DEQUANTIZE" and uses[0].dtype == "float16" for name, uses in tflite_operators(blob)
    )


def _hybrid(blob):
    return _is_tflite(blob) and any(
        name in _WITH_WEIGHTS and (uses[0].dtype, uses[1].dtype) == ("float32", "int8")
        for name, uses in tflite_operators(blob)
    )


_OPENVINO, _TFLM = ("OpenVINO", "2026.4.1"), ("TensorFlow Lite Micro", "2026-10")
RULES = (
    Rule(
        *_OPENVINO,
        "weights as sparse initializers",
        _sparse_initializers,
        "core.read_model: Input tensor isn't found for node",
    ),
    Rule(
        *_OPENVINO,
        "loops over time (its .tflite export is read)",
        _loops,
        "frontends/onnx: the provided loop body graph canonical inputs size does not match; "
        "bidirectional GRU",
    ),
    Rule(
        *_OPENVINO,
        "weights in 1x4 sparse blocks",
        _blocks,
        "core.read_model: Supports only sparse tensor with sparse dimension as a last dimension",
    ),
    Rule(*_TFLM, "sparse weights", _sparse, "fails to allocate; NaN of those in 1x4 blocks"),
    Rule(*_TFLM, "weights in float16", _float16, "fails to allocate"),
    Rule(*_TFLM, "8-bit weights with float activations", _hybrid, "fails to allocate"),
)
_CLASSES = {"OpenVINO": ("openvino", OpenVINO)}


def unread(blob: bytes, runtime: str | None = None) -> dict[str, list[str]]:
    """Return what keeps runtimes from reading a file.

    Example:

    ```python
    unread(Path("model.onnx").read_bytes())  # {"OpenVINO 2026.4.1": ["weights as sparse ..."]}
    ```

    Args:
        blob: the bytes of a `.tflite` or `.onnx` file that its own runtime runs.
        runtime: the only one to tell of; by default all.

    Returns:
        {runtime, with its version: [what it does not read]}, of those alone that do not read it.
    """
    found: dict[str, list[str]] = {}
    for rule in RULES:
        if runtime in (None, rule.runtime) and rule.found(blob):
            version = _installed(rule.runtime) or rule.version
            found.setdefault(f"{rule.runtime} {version}", []).append(rule.what)
    return {name: what for name, what in found.items() if not _reads(name, blob)}


def notes(blob):
    """Return a sentence on each runtime that does not read a file."""
    return [f"not read by {name}: {' and '.join(what)}" for name, what in unread(blob).items()]


def _installed(runtime):
    """Return the version that is installed of a runtime that can be asked; else None."""
    package, _ = _CLASSES.get(runtime, (None, None))
    if package is None or importlib.util.find_spec(package) is None:
        return None
    return importlib.import_module(package).__version__.partition("-")[0]


def _reads(name, blob):
    runtime = name.rpartition(" ")[0]
    if _installed(runtime) is None:
        return False
    try:
        _CLASSES[runtime][1](blob)
    except Exception:  # each runtime has its own classes for a file it cannot read
        return False
    return True
