"""Names for the types that recur in signatures."""

import os
from typing import Any

# Of the backend in use, or an array. Backends share no class, and Keras declares none.
Tensor = Any
Shape = tuple[int, ...]
Axes = tuple[int, int]
FilePath = str | os.PathLike[str]
# Without the batch, of the one input or by the names of the inputs; None stays dynamic.
InputShape = tuple[int | None, ...] | dict[str, tuple[int | None, ...]]
