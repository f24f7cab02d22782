"""Bytes of a model file, as stored and as downloaded."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kprune.measure.models import load_keras, to_numpy
from kprune.report.files import gzipped_bytes


@dataclass
class FileSize:
    """Size of one file.

    Attributes:
        path: the file.
        bytes: on disk.
        gzipped: after gzip at its highest level, as a server or an app store would send it.
        parameters: numbers stored as weights, the zeros of sparsely stored ones included.
        nonzeros: how many of them are not zero.
    """

    path: str
    bytes: int
    gzipped: int
    parameters: int
    nonzeros: int

    def to_dict(self):
        """Return everything as plain data, ready for JSON."""
        return asdict(self)


def size(path, model=None):
    """Measure a `.keras`, `.tflite` or `.onnx` file.

    Example:

    >>> kprune.measure.size("pruned.tflite").gzipped

    Args:
        path: the file.
        model: the model a `.keras` file holds, if it is at hand, to spare loading it again.

    Returns:
        A `FileSize`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another kind, or one that is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    if path.suffix == ".keras":
        model = model or load_keras(path)
        arrays = (to_numpy(variable) for variable in model.weights)
        sizes = [(array.size, np.count_nonzero(array)) for array in arrays]
    else:
        raise ValueError(f"Can measure .keras, .tflite and .onnx files. Received: {path}")
    parameters, nonzeros = (int(sum(column)) for column in zip(*sizes)) if sizes else (0, 0)
    return FileSize(str(path), path.stat().st_size, gzipped_bytes(path), parameters, nonzeros)
