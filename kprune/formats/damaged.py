"""Model files that may be damaged or hostile, read without running them."""

import os
import struct
from pathlib import Path

import numpy as np

# What a reader of damaged bytes runs into: offsets out of bounds, vectors that do not fit, names
# of operators that do not exist.
DAMAGE = (
    *(IndexError, KeyError, ValueError, TypeError, AttributeError),
    *(struct.error, ArithmeticError, MemoryError, RecursionError),
)
_LARGEST = 2**31 - 1  # of a flatbuffer, whose offsets are signed 32-bit numbers


def read_bytes(path):
    """Return a file's bytes; raise ValueError for one too large to be a model of its kind."""
    size = os.path.getsize(path)
    if size > _LARGEST:
        raise ValueError(f"'{path}' is larger than a model file can be. Received: {size} bytes")
    return Path(path).read_bytes()


def onnx_weights(path):
    """Return (name, size, number of zeros) of each weight of rank 2 or more in a `.onnx` file.

    Raises:
        ValueError: it is damaged; the message names it.
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError

    from kprune.formats.onnx.constants import onnx_constants

    data = read_bytes(path)
    try:
        constants = onnx_constants(data)
    except (*DAMAGE, DecodeError) as error:
        raise damaged(path, "ONNX", error) from error
    return [
        (one.name, one.values.size, one.values.size - int(np.count_nonzero(one.values)))
        for one in constants
    ]


def damaged(path, kind, error):
    """Return the ValueError for a file that a reader ran into `DAMAGE` in."""
    reason = str(error).splitlines()[0] if str(error) else ""
    return ValueError(
        f"'{path}' is damaged: it cannot be read as a {kind} file. Export it again, or copy it "
        f"again. {type(error).__name__}: {reason}"[:500]
    )
