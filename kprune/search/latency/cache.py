"""Times of operators on disk, so that each is measured once on a machine."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from kprune._system.errors import ExportError
from kprune._system.files import replacing


def default_cache():
    """Return the folder of the times: `KPRUNE_LATENCY_CACHE`, or one in the user's cache.

    None where the user has no home.
    """
    named = os.environ.get("KPRUNE_LATENCY_CACHE")
    if named:
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "kprune" / "latency"


class Cache:
    """The times of operators at one place: a runtime and its version, a processor, threads.

    A file that cannot be read or written is ignored: then operators are measured again.

    Args:
        place: plain data.
        folder: by default as `default_cache` says.
    """

    def __init__(self, place, folder=None):
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]
        folder = folder or default_cache()
        self._place, self._path = place, folder and Path(folder) / f"{name}.json"
        self._times = self._read()

    def get(self, key):
        """Return `(whether it is known, seconds or None)`."""
        return key in self._times, self._times.get(key)

    def update(self, times):
        """Remember times, together with those that other processes have written meanwhile.

        Args:
            times: dict from keys to seconds, or None where an operator does not run alone.
        """
        self._times = self._read() | self._times | times
        if self._path is None:
            return
        with contextlib.suppress(OSError, ExportError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                data = {"place": self._place, "seconds": self._times}
                temporary.write_text(json.dumps(data))

    def _read(self):
        if self._path is None:
            return {}
        try:
            times = json.loads(self._path.read_text())["seconds"]
            return {key: _seconds(value) for key, value in times.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _seconds(value):
    if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
        raise ValueError(f"no time: {value!r}")
    return value
