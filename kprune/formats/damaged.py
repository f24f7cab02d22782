"""Model files that may be damaged or hostile, read without running them."""

import os
import struct
from pathlib import Path

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


def damaged(path, kind, error):
    """Return the ValueError for a file that a reader ran into `DAMAGE` in."""
    reason = str(error).splitlines()[0] if str(error) else ""
    return ValueError(
        f"'{path}' is damaged: it cannot be read as a {kind} file. Export it again, or copy it "
        f"again. {type(error).__name__}: {reason}"[:500]
    )
