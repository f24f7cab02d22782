"""The folder of a search: its files, and what is known of its rounds, so that it can go on."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

from kprune._keras.layers import flatten_layers
from kprune._system import files
from kprune._system.errors import ExportError, first_line
from kprune.graphs.load import load_keras, to_numpy
from kprune.report.files import write_json
from kprune.search.points import Point, point_from

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = "rounds.json"
DENSE = "dense.keras"
_CHANGED = (
    "'{folder}' holds the rounds of another search ({what} differ): give another `out`, or delete "
    "that folder."
)
_REGISTER = (
    "A search keeps its models as .keras files, and '{model}' does not go into one and back: "
    "{error} Classes and functions of your own need @keras.saving.register_keras_serializable() "
    "and a `get_config`."
)


class Journal:
    """The rounds of a search, on disk.

    Args:
        folder: path; made if it is not there.
        about: plain data that says which search it is.

    Attributes:
        folder: `Path`.
        points: list of the `Point`s of the rounds that were finished, the n-th of round n.
        trained: {"number", "step", "fit"} of the round whose model is there and whose point is
            not, as its `fit` was the longest part; None without one.

    Raises:
        ValueError: the folder holds another search, or files that are none.
        OSError: it cannot be made or written to.
    """

    def __init__(self, folder, about):
        self.folder, self._about = Path(folder), about
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                f"No folder can be made at '{folder}': {error.strerror or error}. Give another "
                "`out`."
            ) from error
        files.destination(self.folder / _NAME, ".json")
        self._read()

    @property
    def key(self):
        """A name of the search, the same in every process and folder."""
        about = json.dumps(self._about, sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def _read(self):
        self.points, self.trained = [], None
        path = self.folder / _NAME
        if not path.is_file():
            return
        try:
            data = json.loads(path.read_bytes())
            about, trained = data["about"], data["trained"]
            self.points = [point_from(one) for one in data["rounds"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged: {error}. Delete it, and the search begins again."
            ) from error
        self.trained = trained
        if about != self._about:
            keys = {*about, *self._about}
            what = sorted(key for key in keys if about.get(key) != self._about.get(key))
            raise ValueError(_CHANGED.format(folder=self.folder, what=", ".join(what)))
        if self.points and not self._is_there(self.points[0]):
            self.points = []

    def _write(self):
        rounds = [one.to_dict() for one in self.points]
        data = {"about": self._about, "trained": self.trained, "rounds": rounds}
        try:
            write_json(self.folder / _NAME, data)
        except (OSError, ExportError) as error:
            raise self.cannot_write(error) from error

    def cannot_write(self, error):
        """Return an error that says what to do."""
        return OSError(
            f"A round could not be kept in '{self.folder}': {first_line(error)} The "
            f"{len(self.points)} rounds before it are there: with room made, the same call goes on."
        )

    def add(self, point: Point) -> None:
        """Keep a round that is finished; one of its number is replaced."""
        self.points[point.number : point.number + 1] = [point]
        self.trained = None
        self._write()

    def add_model(self, model, number, step, seconds):
        """Keep the model of a round, and how long its `fit` took, before the rest is done."""
        self.save(model, model_name(number))
        self.trained = {"number": number, "step": dataclasses.asdict(step), "fit": seconds}
        self._write()

    def trained_before(self, number, step):
        """Return the seconds that the model of a round took, which is there; None if it is not."""
        one = self.trained
        same = one and (one["number"], one["step"]) == (number, dataclasses.asdict(step))
        return one["fit"] if same and self.path(model_name(number)).is_file() else None

    def number_of(self, step):
        """Return `(number, point)` of the round of a step; the point is None if it is new."""
        for point in self.points:
            if point.step == step and point.number:
                return point.number, point if self._is_there(point) else None
        return len(self.points), None

    def _is_there(self, point):
        return all(self.path(name).is_file() for name in (point.file, point.model) if name)

    def path(self, name):
        """Return the path of a file of the search."""
        return self.folder / name

    def save(self, model, name):
        """Write a model as a `.keras` file."""
        path = files.destination(self.path(name), ".keras")
        try:
            with files.replacing(path, ".keras") as temporary:
                model.save(temporary)
        except (OSError, ExportError) as error:
            raise self.cannot_write(error) from error
        except Exception as error:  # Of any `get_config`.
            raise ValueError(_REGISTER.format(model=model.name, error=first_line(error))) from error

    def load(self, name):
        """Return the model of a `.keras` file of the search."""
        return load_keras(self.path(name))

    def copy_of(self, model):
        """Return the dense model as it comes out of its file, written first."""
        self.save(model, DENSE)
        try:
            return self.load(DENSE)
        except ValueError as error:
            raise ValueError(_REGISTER.format(model=model.name, error=error)) from error

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
            self._read()  # What another one has done by then.
            yield


def model_name(number):
    """Return the name of the `.keras` file of a round."""
    return f"round-{number:02d}.keras"


def fingerprint(model):
    """Return a digest of a model's layers, whatever their names, and of its weights."""
    digest = hashlib.sha256()
    for layer in flatten_layers(model):
        parts = list(flatten_layers(layer, include_self=False))
        # Of a model, the layers in it; one of the user's may have no configuration.
        config = {}
        if not parts:
            with contextlib.suppress(Exception):
                config = layer.get_config()
        digest.update(f"{type(layer).__name__}{_nameless(config)}".encode())
    for variable in model.weights:
        value = to_numpy(variable)
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _nameless(config):
    """A configuration without names, which count through a session."""
    if isinstance(config, dict):
        return sorted((k, _nameless(v)) for k, v in config.items() if k != "name")
    if isinstance(config, list | tuple):
        return [_nameless(one) for one in config]
    plain = isinstance(config, str | int | float | None)
    return repr(config) if plain else type(config).__name__
