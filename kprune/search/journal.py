"""The folder of a search: its files, and what is known of its rounds, so that it can go on."""

import contextlib
import hashlib
import json
from pathlib import Path

from kprune._system import files
from kprune.graphs.load import load_keras, to_numpy
from kprune.report.files import write_json
from kprune.search.points import Point, point_from

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = "rounds.json"
_CHANGED = (
    "'{folder}' holds the rounds of another search ({what} differ): give another `out`, or delete "
    "that folder."
)


class Journal:
    """The rounds of a search, on disk.

    Args:
        folder: path; made if it is not there.
        about: plain data that says which search it is.

    Attributes:
        folder: `Path`.
        points: list of the `Point`s of the rounds that were finished.

    Raises:
        ValueError: the folder holds another search, or files that are none.
        OSError: it cannot be made, or is another process' at the moment.
    """

    def __init__(self, folder, about):
        self.folder, self._about = Path(folder), about
        self.folder.mkdir(parents=True, exist_ok=True)
        files.destination(self.folder / _NAME, ".json")
        self.points = self._read()  # So that what is wrong with it is told at once.

    def _read(self):
        path = self.folder / _NAME
        if not path.is_file():
            return []
        try:
            data = json.loads(path.read_bytes())
            about, points = data["about"], [point_from(one) for one in data["rounds"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged: {error}. Delete it, and the search begins again."
            ) from error
        if about != self._about:
            keys = {*about, *self._about}
            what = sorted(key for key in keys if about.get(key) != self._about.get(key))
            raise ValueError(_CHANGED.format(folder=self.folder, what=", ".join(what)))
        for i, point in enumerate(points):
            wanted = [name for name in (point.file, point.model) if name]
            if not all(self.path(name).is_file() for name in wanted):
                return points[:i]
        return points

    def add(self, point: Point) -> None:
        """Keep a round that is finished."""
        self.points.append(point)
        rounds = [one.to_dict() for one in self.points]
        write_json(self.folder / _NAME, {"about": self._about, "rounds": rounds})

    def known(self, number, step):
        """Return the point of a round that was finished; None, if it is another step's or new.

        Another step's is dropped with all after it: the search takes another way there.
        """
        if len(self.points) > number and self.points[number].step == step:
            return self.points[number]
        self.points = self.points[:number]
        return None

    def path(self, name):
        """Return the path of a file of the search."""
        return self.folder / name

    def save(self, model, name):
        """Write a model as a `.keras` file."""
        path = files.destination(self.path(name), ".keras")
        with files.replacing(path, ".keras") as temporary:
            model.save(temporary)

    def load(self, name):
        """Return the model of a `.keras` file of the search."""
        return load_keras(self.path(name))

    @contextlib.contextmanager
    def held(self, wait=False):
        """Keep other processes out.

        Args:
            wait: bool, whether to wait while another one is at work here.

        Raises:
            OSError: another one is at work here.
        """
        with open(self.folder / ".lock", "w") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    raise OSError(
                        f"Another process is searching in '{self.folder}': give another `out`, or "
                        "wait for it."
                    ) from None
            self.points = self._read()  # What another one has done by then.
            yield


def fingerprint(model):
    """Return a digest of a model's layers and weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = to_numpy(variable)
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
