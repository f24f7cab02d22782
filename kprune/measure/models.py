"""From what a user hands over, a model or the path of a `.keras` file, to a built Keras 3 model."""

import contextlib
import os
import zipfile
from pathlib import Path

import keras

from kprune.selection import check_model

# Of what a .keras file unpacks to. Keras stores without compression; others may have packed it.
_MOST_BYTES, _MOST_EXPANSION = 1 << 24, 100


def as_model(model):
    """Return `model` itself if it is a built Keras 3 model, or load it if it is a path.

    Raises:
        TypeError: not a Keras 3 model; a tf_keras model is told which door is its.
        ValueError: the model is not built, or the file is no readable `.keras` file.
        FileNotFoundError: there is no such file.
    """
    if isinstance(model, str | os.PathLike):
        return load_keras(model)
    check_model(model)
    return model


def load_keras(path):
    """Load a `.keras` file, with one error, naming the file, for whatever is wrong with it."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file (a zip archive written by `model.save`), or it was "
            "cut short."
        )
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > _MOST_BYTES + _MOST_EXPANSION * path.stat().st_size:
            raise ValueError(f"{path} is damaged: it says to hold {claimed:,} bytes")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # zip, JSON, HDF5 and every layer's constructor have their own
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"Keras could not load {path}: {reason}") from error


def to_numpy(variable):
    """Return a variable's values as a NumPy array of a dtype that NumPy can compare."""
    array = keras.ops.convert_to_numpy(variable.value)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array
