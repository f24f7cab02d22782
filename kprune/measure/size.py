"""Bytes and parameters of a model file, as stored and as downloaded."""

import gzip
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune._system.type_aliases import FilePath
from kprune.formats.onnx.constants import onnx_constants
from kprune.formats.tflite.constants import tflite_weights
from kprune.graphs.load import load_keras, to_numpy


@dataclass
class FileSize:
    """Size of one file.

    Attributes:
        path: the file.
        bytes: on disk.
        gzipped_bytes: after gzip, level 9: what a download or an app bundle takes.
        parameters: numbers in its weights of rank 2 or more (kernels; not biases and norms,
            which converters fold and duplicate), the zeros of sparsely stored ones included.
        nonzeros: how many of them are not zero.
    """

    path: str
    bytes: int
    gzipped_bytes: int
    parameters: int
    nonzeros: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)


def size(path: FilePath, model: keras.Model | None = None) -> FileSize:
    """Measure a `.keras`, `.tflite` or `.onnx` file.

    Example:

    ```python
    kprune.measure.size("pruned.tflite").gzipped_bytes
    ```

    Args:
        path: the file.
        model: the model that a `.keras` file holds, where you have it, to save loading it again.

    Returns:
        A `FileSize`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another kind, or one that is damaged.
    """
    path = Path(path)
    if path.suffix not in (".keras", ".tflite", ".onnx"):
        raise ValueError(f"Can measure .keras, .tflite and .onnx files. Received: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    data = path.read_bytes()
    counts = _counts(path, data, model)
    return FileSize(
        path=str(path),
        bytes=len(data),
        gzipped_bytes=len(gzip.compress(data, 9, mtime=0)),
        parameters=sum(entries for entries, _ in counts),
        nonzeros=sum(nonzeros for _, nonzeros in counts),
    )


def _counts(path, data, model):
    """Return (entries, those that are not zero) of each weight of rank 2 or more."""
    if path.suffix == ".keras":
        arrays = [to_numpy(variable) for variable in (model or load_keras(path)).weights]
        return [_count(array) for array in arrays if array.ndim > 1]
    try:
        if path.suffix == ".tflite":
            return [(entries, entries - zeros) for zeros, entries in tflite_weights(data)]
        return [_count(constant.values) for constant in onnx_constants(data)]
    except ImportError as error:
        raise ImportError(
            f'{path} needs {error.name} to be read. Install it with: pip install "kprune[export]"'
        ) from error
    except Exception as error:  # what a parser runs into in damaged bytes is anyone's guess
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _count(array):
    return array.size, int(np.count_nonzero(array))
