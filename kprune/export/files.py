"""Destination files: checked before the work, written beside the target, moved when proven."""

import contextlib
import os
import secrets
from pathlib import Path

from kprune.export.errors import ExportError


def destination(path, suffix):
    """Check that a file can be made at `path`, and return it as a `Path`.

    Raises:
        ValueError: `path` does not end in `suffix`.
        FileNotFoundError: its directory does not exist.
        NotADirectoryError, IsADirectoryError, PermissionError: it cannot be a file there.
    """
    path = Path(path)
    folder = path.parent
    if path.suffix != suffix:
        raise ValueError(f"The file's name must end in '{suffix}'. Received: path='{path}'")
    if not folder.exists():
        raise FileNotFoundError(
            f"The directory '{folder}' does not exist: create it first. Received: path='{path}'"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is not a directory. Received: path='{path}'")
    if path.is_dir():
        raise IsADirectoryError(f"There is a directory at '{path}': give the path of a file.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"No permission to write in '{folder}'. Received: path='{path}'")
    return path


@contextlib.contextmanager
def replacing(path):
    """Yield a new path beside `path`; move it over `path` on success, delete it on any failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write(path, data, target):
    """Write the bytes `data` to `path`, on the way to `target`; say so when the disk is full."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _cannot_write(path, error):
    return ExportError(
        f"Could not write '{path}': {error.strerror or error}. No partial file was left, and "
        "whatever was at that path before is untouched."
    )
