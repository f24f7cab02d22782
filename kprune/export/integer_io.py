"""Integer inputs and outputs of `.tflite` files, and what a C programmer has to know of them."""

import dataclasses

import numpy as np

from kprune._system.errors import ExportError
from kprune.runtimes.litert import LiteRT

FLOAT = "float32"
IO = {"int8": ("int8", "uint8", FLOAT), "int16x8": ("int16", FLOAT)}


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """An input or output of a file. Its real values are `(integer - zero_point) * scale`.

    Attributes:
        kind: `"input"` or `"output"`.
        index: its position among the file's inputs or outputs: TFLite Micro's `input(index)`.
        name: in the file's signature.
        dtype: such as `"int8"`.
        shape: sizes, None where dynamic.
        scale, zero_point: None where it is not quantized: floats, and ids.
    """

    kind: str
    index: int
    name: str
    dtype: str
    shape: tuple
    scale: float | None = None
    zero_point: int | None = None


def check_io(quantize, io):
    """Raise ValueError where `io` does not go with `quantize`."""
    allowed = IO.get(quantize, (FLOAT,))
    if io in allowed:
        return
    if quantize not in IO:
        raise ValueError(
            "Integer inputs and outputs are for files that compute in integers throughout: use "
            f"quantize='int8' or 'int16x8'. Received: io={io!r}, quantize={quantize!r}"
        )
    raise ValueError(
        f"With quantize={quantize!r}, `io` must be one of {allowed}. Received: io={io!r}"
    )


def check_runtime(target, io):
    """Raise ValueError where a `Target` does not take such inputs."""
    if target.runtime == "LiteRT.js" and io in ("int8", "int16"):
        raise ValueError(
            "LiteRT.js takes inputs in float32, int32 and uint8 only: use io='uint8' or 'float32' "
            f"with target={target.name!r}. Received: io={io!r}"
        )


def file_tensors(blob):
    """Return a `FileTensor` for each input, then each output of a file, in its own order."""
    file, found = LiteRT(blob), []
    sides = [("input", file.inputs, file.input_scales)]
    sides += [("output", file.outputs, file.output_scales)]
    for kind, tensors, scales in sides:
        for index, (name, (dims, dtype, _)) in enumerate(tensors.items()):
            scale = scales.get(name, (None, None))
            found.append(FileTensor(kind, index, name, np.dtype(dtype).name, tuple(dims), *scale))
    return found


def check_made(tensors, io):
    """Raise ExportError where the converter has left floats at the edge of an integer file."""
    left = [f"{each.kind} '{each.name}'" for each in tensors if each.dtype == FLOAT]
    if io != FLOAT and left:
        raise ExportError(
            f"The converter left {', '.join(left)} in float32, not {io}: an operator there has no "
            "integer kernel. Use io='float32', or do that part outside of the model."
        )
