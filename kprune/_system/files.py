"""Files written whole or not at all: checked before the work, and moved when proven.

What a killed process leaves behind is removed by the next one that writes there. The owner of a
temporary file or folder holds a lock on it, which the system releases when the owner ends,
however it ends. What can be locked is therefore nobody's; what is in use, also by a process in
another container that shares the folder, never can be. Where a system has no such locks (Windows,
some network drives) nothing is swept.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from kprune._system.errors import ExportError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FILE, _FOLDER = ".kprune-", "kprune-scratch-"
_FILES = re.compile(r"\.kprune-[0-9a-f]{16}\.tmp(\.\w+)?")
_FOLDERS = re.compile(r"kprune-scratch-[0-9a-f]{16}")


def destination(path, suffix):
    """Check that a file can be made at `path`, and return it as a `Path`.

    Raises:
        ValueError: `path` does not end in `suffix`.
        FileNotFoundError: its directory does not exist.
        NotADirectoryError, IsADirectoryError, PermissionError: it cannot be a file there.
        OSError: its name is too long, or it is a link to itself.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"The file's name must end in '{suffix}'. Received: path='{path}'")
    _check_name(path)
    target = _target(path)
    folder, link = target.parent, f" (a link to '{target}')" if path.is_symlink() else ""
    if not folder.exists():
        raise FileNotFoundError(
            f"The directory '{folder}' does not exist: create it first. Received: path='{path}'"
            f"{link}"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is not a directory. Received: path='{path}'{link}")
    if target.is_dir():
        raise IsADirectoryError(f"There is a directory at '{path}': give the path of a file.")
    if target.exists() and not target.is_file():
        raise OSError(
            f"There is a device or a pipe at '{path}', which cannot be replaced by a file: give "
            "another path."
        )
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"No permission to write in '{folder}'. Received: path='{path}'{link}"
        )
    return path


def _check_name(path):
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(
                f"The name of the file is too long ({len(os.fsencode(path.name))} bytes; most "
                f"systems take 255, and 4096 for the whole path): give a shorter one. Received: "
                f"path='{path}'"
            ) from error
        if error.errno == errno.ELOOP:
            raise OSError(f"'{path}' is a link that leads back to itself: remove it.") from error
    except ValueError as error:
        raise ValueError(f"No file can have this name: {error}. Received: {path!r}") from error


def _target(path):
    """Where the file itself is: `path`, or what the link there leads to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def replacing(path, suffix=""):
    """Yield a new, empty file beside `path`; move it over `path` on success, else delete it.

    A link at `path` stays, and what it leads to is replaced; so does the mode of a file that was
    there. On the way, what killed processes left in the folder is swept.

    Args:
        path: a `Path`, checked by `destination`.
        suffix: of the new file's name, where a writer looks at it.

    Raises:
        OSError: no file can be made there.
        ExportError: the file is there, but cannot be moved.
    """
    target = _target(path)
    _sweep(target.parent, _FILES, os.unlink)
    mode = _mode(target)
    temporary, descriptor = _new_file(path, target.parent, suffix, mode)
    try:
        yield temporary
        try:
            if mode is not None:
                _set_mode(temporary, mode)
            os.replace(temporary, target)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        # Whatever went wrong before is what the caller has to know.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def _new_file(path, folder, suffix, mode):
    while True:
        temporary = folder / f"{_FILE}{secrets.token_hex(8)}.tmp{suffix}"
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise type(error)(
                f"No file can be made in '{folder}': {error.strerror or error}. Received: "
                f"path='{path}'"
            ) from error
        if mode is not None:  # never more open than what it will replace
            _set_mode(temporary, mode | stat.S_IRUSR | stat.S_IWUSR)
        if _locked(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def _mode(path):
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def _set_mode(path, mode):
    with contextlib.suppress(OSError):  # file systems without modes
        os.chmod(path, mode)


@contextlib.contextmanager
def scratch():
    """Yield a new folder for temporary files, as a `Path`; it is removed when the block ends.

    On the way, such folders of processes that were killed are swept.
    """
    base = Path(tempfile.gettempdir())
    _sweep(base, _FOLDERS, lambda path: shutil.rmtree(path, ignore_errors=True))
    folder, descriptor = _new_folder(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _new_folder(base):
    while True:
        folder = base / f"{_FOLDER}{secrets.token_hex(8)}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if fcntl is None:
            return folder, None
        with contextlib.suppress(FileNotFoundError):  # swept between the two
            descriptor = os.open(folder, os.O_RDONLY)
            if _locked(descriptor, folder):
                return folder, descriptor
            os.close(descriptor)


def _locked(descriptor, path):
    """Lock a new file or folder; False if another process has swept it before."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sweep(folder, names, remove):
    """Remove what is named so, is this user's, and is owned by no living process."""
    if fcntl is None:
        return
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if names.fullmatch(entry.name)]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
            finally:
                os.close(descriptor)


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
