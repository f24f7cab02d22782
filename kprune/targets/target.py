"""Targets: a runtime on a processor, and what it can make of zeros, as data with its sources."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rule:
    """One thing that a target does with zeros.

    Attributes:
        layers: which layers.
        shapes: which of them.
        dtypes: how their weights are stored.
        pattern: which zeros.
        more_than: the share of zeros that must be exceeded, a fraction.
        effect: `"faster"` or `"smaller"`.
        source: where this is known from.
    """

    layers: str
    shapes: str
    dtypes: tuple
    pattern: str
    more_than: float
    effect: str
    source: str


@dataclasses.dataclass(frozen=True)
class Target:
    """A runtime on a processor, and what it accelerates.

    Attributes:
        name: as in `get_target`.
        runtime: the runtime.
        processor: what it runs on.
        format: the files it runs: `"tflite"` or `"onnx"`.
        rules: `Rule`s.
        clusters: whether 1x1 convolutions in an XNNPACK cluster have sparse kernels.
        block_cost: the time of a dense layer stored in 1x4 blocks, relative to the dense kernel's,
            for each kept share of its weights; None where it is always computed densely.
        fixed_shapes: whether it runs only files without a free dimension, such as the batch's.
    """

    name: str
    runtime: str
    processor: str
    format: str
    rules: tuple
    clusters: bool = False
    block_cost: float | None = None
    fixed_shapes: bool = False

    @property
    def blocks_from(self):
        """The sparsity from which blocks are faster than the dense kernel; None for never."""
        return None if self.block_cost is None else 1 - 1 / self.block_cost


_XNNPACK = "XNNPACK src/subgraph.c, xnn_subgraph_rewrite_for_nchw"
_CLUSTER = Rule(
    "1x1 convolutions",
    "stride 1, no groups, in a cluster that begins with a 3x3 convolution of stride 2, padding 1 "
    "on each side and 3 input channels, and ends in a spatial mean or depth-to-space; between, "
    "only 1x1 convolutions, depthwise 3x3 and 5x5 with symmetric padding, sums, products, "
    "activations and bilinear resizing; no tensor is used outside",
    ("float32", "float16"),  # float16 weights are computed with in float32
    "Unstructured()",
    2 / 3,
    "faster",
    f"{_XNNPACK}; measured in LiteRT.js 2.5.3: MobileNetV1 at 80% 3.1x, at 90% 4.3x",
)
_SMALLER = Rule(
    "dense layers and 2D convolutions",
    "all",
    ("float32", "float16"),
    "Unstructured()",
    0.3,
    "smaller",
    "TensorFlow's dense_to_sparse pass (kMinSparsityLevel); made dense when the file is loaded",
)


def _blocks(cost, source):
    return Rule(
        "dense layers",
        "on vectors; the number of inputs a multiple of 4",
        ("float32",),
        "Block((4, 1))",
        1 - 1 / cost,
        "faster",
        f"TFLite's fully connected kernel for 1x4 blocks; {source}",
    )


_X86, _ARM, _WASM = 2.9, 2.9, 7.7
_MLP = "measured on an MLP 1024-2048-2048-16"

TARGETS = {
    target.name: target
    for target in (
        Target(
            "litert-arm64",
            "LiteRT",
            "64-bit ARM",
            "tflite",
            (_CLUSTER, _blocks(_ARM, "not measured on ARM; as on x86"), _SMALLER),
            clusters=True,
            block_cost=_ARM,
        ),
        Target(
            "litert-x86",
            "LiteRT",
            "x86-64 with AVX, where XNNPACK computes 1x1 convolutions densely by design "
            "(src/xnnpack/hardware-config.h)",
            "tflite",
            (_blocks(_X86, f"{_MLP}: at 70% 1.1x, at 80% 1.7x, at 90% 3.6x"), _SMALLER),
            block_cost=_X86,
        ),
        Target(
            "litert-wasm",
            "LiteRT.js",
            "WebAssembly in a browser",
            "tflite",
            (_CLUSTER, _blocks(_WASM, f"{_MLP}: at 80% 0.6x, at 90% 1.4x"), _SMALLER),
            clusters=True,
            block_cost=_WASM,
            fixed_shapes=True,
        ),
        Target(
            "onnxruntime",
            "ONNX Runtime",
            "any CPU; weights are computed with densely, so that only removing channels is faster",
            "onnx",
            (),
        ),
    )
}


def get_target(target):
    """Return a `Target` by its name.

    Args:
        target: `"litert-arm64"`, `"litert-x86"`, `"litert-wasm"`, `"onnxruntime"`, or a `Target`.

    Raises:
        ValueError: there is no such target; the message lists those there are.
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(f"`target` must be one of {list(TARGETS)}. Received: {target!r}")
    return TARGETS[target]
