"""From what a user hands over, a model or the path of a `.keras` file, to a built Keras 3 model."""

import copy
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import keras

from kprune.graphs.weights import check_model

# Of what a .keras file unpacks to. Keras stores without compression; others may have packed it.
_MOST_BYTES, _MOST_EXPANSION = 1 << 24, 100
_PIECE = 1 << 20  # bytes of it in memory at once, while it is checked


def as_model(model):
    """Return `model` itself if it is a built Keras 3 model, or load it if it is a path.

    Raises:
        TypeError: not a Keras 3 model; for a tf_keras model the message says what to do.
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
    try:
        _check_archive(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # zip, JSON, HDF5 and every layer's constructor have their own
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"Keras could not load {path}: {reason}") from error


def _check_archive(path):
    """Refuse an archive before Keras reads it whole: see the two limits above.

    What it says of its own sizes is not trusted: members are unpacked piece by piece, and thrown
    away. Keras does not compress, so its files cost nothing here.
    """
    budget = _MOST_BYTES + _MOST_EXPANSION * path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if _leads_outside(member.filename):
                raise ValueError(
                    f"{path} is damaged, or not to be trusted: it holds a file outside of its own "
                    f"folder. Received: {member.filename[:200]!r}"
                )
        claimed = sum(member.file_size for member in members)
        if claimed > budget:
            raise ValueError(f"{path} is damaged: it says to hold {claimed:,} bytes")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{path} is packed in a way that Keras does not write. Received: compression "
                    f"method {member.compress_type} of {member.filename[:200]!r}"
                )
            if member.compress_type == zipfile.ZIP_DEFLATED and _is_larger(archive, member):
                raise ValueError(
                    f"{path} is damaged: {member.filename[:200]!r} holds more than the "
                    f"{member.file_size:,} bytes that it says"
                )


def _leads_outside(name):
    name = PurePosixPath(name.replace("\\", "/"))
    return name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1])


def _is_larger(archive, member):
    unpacked, limitless = 0, copy.copy(member)
    limitless.file_size, limitless.CRC = 1 << 62, None  # zipfile would stop at what it says
    with archive.open(limitless) as file:
        while unpacked <= member.file_size and (piece := file.read(_PIECE)):
            unpacked += len(piece)
    return unpacked > member.file_size


def to_numpy(variable):
    """Return a variable's values as a NumPy array of a dtype that NumPy can compare."""
    array = keras.ops.convert_to_numpy(variable.value)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array
