"""What an export does to the whole process, it does alone, and undoes.

Converters and runtimes leave no choice: they print to the process's descriptors, read a model's
dtype policies, and look up `tf.function`. Exports in several threads therefore take turns.
"""

import contextlib
import tempfile
import threading
from pathlib import Path

from kprune._system import files
from kprune._system.replaced import replaced

# Held by whoever changes what all threads share. Reentrant: exports nest such changes.
LOCK = threading.RLock()
_folder = None  # of the workplace that is open; guarded by LOCK


@contextlib.contextmanager
def workplace():
    """Wait for other exports to end, and yield a folder of this one's own, as a `Path`.

    What libraries create with `tempfile` in this thread goes there, too, so that nothing of theirs
    stays when the process is killed either: see `files.scratch`.
    """
    global _folder
    with LOCK:
        if _folder is not None:
            with tempfile.TemporaryDirectory() as inside:
                yield Path(inside)
            return
        with files.scratch() as folder, _temporaries_in(folder):
            _folder = folder
            try:
                yield folder
            finally:
                _folder = None


def whole_folder():
    """Return the folder of the outermost workplace that is open."""
    return _folder


@contextlib.contextmanager
def _temporaries_in(folder):
    original, thread = tempfile.gettempdir, threading.get_ident()

    def gettempdir():
        return str(folder) if threading.get_ident() == thread else original()

    with replaced(tempfile, "gettempdir", gettempdir):
        yield
