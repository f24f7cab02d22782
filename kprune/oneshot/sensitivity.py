"""Which layers bear how much: each is pruned alone, and the model is evaluated."""

import collections
import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import Progress

from kprune._keras import backend
from kprune._system.errors import first_line
from kprune._system.files import destination
from kprune._system.type_aliases import FilePath
from kprune.graphs.weights import check_model, weights_of
from kprune.oneshot.sensitivity_report import SensitivityReport
from kprune.pruning.groups import Setting
from kprune.pruning.patterns import Pattern, Unstructured
from kprune.pruning.schedules import check_sparsity
from kprune.pruning.selection import choose, group
from kprune.report.files import write_json

_LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95)
_LESS_IS_BETTER = (
    "loss", "error", "mae", "mse", "mape", "msle", "crossentropy", "divergence", "hinge", "logcosh",
    "poisson", "perplexity",
)  # fmt: skip


def sensitivity_scan(
    model: keras.Model,
    data: Any,
    metric: str | Callable[..., float] | None = None,
    sparsities: Sequence[float] = _LEVELS,
    layers: Any = None,
    pattern: Pattern | None = None,
    mode: str | None = None,
    out: FilePath | None = None,
    parallel: Any = None,
) -> SensitivityReport:
    """Prune each layer alone to several sparsities, by magnitude, and evaluate the model.

    The model has its own weights again afterwards. The oldest of all analyses: Li et al., "Pruning
    filters for efficient convnets" (2017), section 3.2.

    Example:

    ```python
    report = kprune.sensitivity_scan(model, (x_val, y_val), out="scan.json")
    print(report)
    report.plot("scan.png")
    layers = report.layers(max_drop=0.005)  # the most that each layer bears alone
    model.fit(x, y, callbacks=[kprune.Pruning(layers=layers)])
    ```

    Args:
        model: a built `keras.Model`; compiled, unless `metric` is a function.
        data: what `evaluate` takes: `(x, y)`, `(x, y, sample_weight)` or a dataset.
        metric: str, a metric of the compiled model, by default the first one besides the loss; or a
            function of the model and `data` that returns a float.
        sparsities: floats in [0, 1).
        layers: as in `Pruning`, without settings: which layers to scan.
        pattern: as in `Pruning`; of single weights, blocks or N:M.
        mode: "max" or "min", which is better; by default "min" for losses and errors.
        out: path of a .json file, written after each layer. If it is there, of a scan of the same
            model, metric and levels, the layers in it are not evaluated again.
        parallel: a `joblib.Parallel`, by which layers are scanned at once. Each job is handed the
            data and the model as a .keras file, so that custom classes must be registered, and a
            `metric` of your own importable, where it runs.

    Returns:
        A `SensitivityReport`.

    Raises:
        ValueError: a metric that the model does not have, or that is no number on the dense model;
            `out` is of another scan; data that the model does not take. The model is unchanged.
    """
    check_model(model)
    levels = [check_sparsity(sparsity) for sparsity in sparsities]
    if mode not in (None, "max", "min"):
        raise ValueError(f'`mode` is "max" or "min". Received: mode={mode!r}')
    out = None if out is None else destination(out, ".json")
    scan = _Scan(model, data, metric, levels, pattern or Unstructured())
    names = scan.names(layers)
    baseline = scan.evaluate()
    if not math.isfinite(baseline):
        raise ValueError(f"{scan.name} of the dense model is {baseline}: check `data`.")
    if mode is None:
        mode = "min" if any(part in scan.name.lower() for part in _LESS_IS_BETTER) else "max"
    report = SensitivityReport(model.name, scan.name, mode, baseline, levels, str(scan.pattern))
    done = {} if out is None else _done(out, report)
    report.values.update((name, done[name]) for name in names if name in done)
    left = [name for name in names if name not in done]
    try:
        with _bar(len(names), len(names) - len(left)) as advance:
            for name, values in scan.values(left, parallel):
                report.values[name] = values
                if out is not None:
                    write_json(out, report.to_dict())
                advance(name)
    finally:
        scan.restore()
    return report


class _Scan:
    """Prunes layers of a model by turns, and evaluates it."""

    def __init__(self, model, data, metric, levels, pattern):
        if isinstance(pattern, Pattern) and type(pattern).groups is not Pattern.groups:
            raise ValueError(f"{pattern} takes whole channels, which no layer has alone.")
        self.model, self.data, self.levels, self.pattern = model, data, levels, pattern
        self._metric = metric
        self.name = getattr(metric, "__name__", metric)
        self.weights = {}  # From a layer's path to its `Weight`s.
        self._before = {}  # From a layer's path to its weights' values, while they are others.

    def names(self, layers):
        """What the layers to scan are called in `Pruning(layers=...)`, in the model's order."""
        found = [weight for weight in weights_of(self.model) if weight.reason is None]
        if not found:
            group(weights_of(self.model), Setting(sparsity=0.5))  # Says why.
        of = {}
        for weight in choose(found, layers):
            self.pattern.check(tuple(weight.variable.shape), weight.axes, weight.name)
            of.setdefault(id(weight.parents[-1]), []).append(weight)
        owners = [weights[0].parents[-1] for weights in of.values()]
        # A name stays when the model is saved and loaded; a path may not.
        known = collections.Counter(owner.name for owner in owners)
        names = [owner.name if known[owner.name] == 1 else owner.path for owner in owners]
        self.weights = dict(zip(names, of.values()))
        return names

    def evaluate(self):
        """The metric of the model as it is, a float; the first call settles which it is."""
        if callable(self._metric):
            return float(self._metric(self.model, self.data))
        if not self.model.compiled:
            raise ValueError(
                f"{self.model.name!r} is not compiled: compile it with a loss and metrics, or pass "
                "a function of the model and the data as `metric`."
            )
        data = self.data if isinstance(self.data, tuple) else (self.data,)
        x, y, weight = (*data, None, None)[:3]
        try:
            found = self.model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
        except Exception as error:
            raise ValueError(f"The model could not be evaluated: {first_line(error)}") from error
        if self.name is None:
            self.name = next((name for name in found if name != "loss"), "loss")
        if self.name not in found:
            raise ValueError(
                f"{self.model.name!r} has no metric {self.name!r}; it has {', '.join(found)}."
            )
        return float(found[self.name])

    def values(self, names, parallel=None):
        """Yield `(path, values at each level)` for some layers."""
        if parallel is None:
            for name in names:
                yield name, self.of_layer(name)
            return
        import joblib

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            given = (self.data, self._metric or self.name, self.levels, self.pattern)
            every = _Scan(self.model, *given)
            every.names(None)
            places = [id(weights[0].variable) for weights in every.weights.values()]
            chosen = [places.index(id(self.weights[name][0].variable)) for name in names]
            jobs = [joblib.delayed(_one)(path.read_bytes(), place, *given) for place in chosen]
            yield from zip(names, parallel(jobs))

    def of_layer(self, name):
        """The metric with one layer pruned to each level."""
        weights = self.weights[name]
        values = [backend.read(weight.variable) for weight in weights]
        self._before = {name: [keras.ops.convert_to_numpy(value) for value in values]}
        found = []
        for level in self.levels:
            setting = Setting(sparsity=level, pattern=self.pattern)
            for one in group(weights, setting):
                for weight, mask in zip(one.weights, one.masks(values, level)):
                    value = values[weights.index(weight)]
                    weight.variable.assign(
                        keras.ops.where(mask, value, keras.ops.zeros_like(value))
                    )
            measured = self.evaluate()
            found.append(measured if math.isfinite(measured) else None)
            self.restore()
        return found

    def restore(self):
        """Give the layer that is pruned its own weights again."""
        for name, values in self._before.items():
            for weight, value in zip(self.weights[name], values):
                weight.variable.assign(value)


def _one(content, place, data, metric, levels, pattern):
    """Scan one layer of the model in a .keras file, in whatever process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        model = keras.models.load_model(path)
    scan = _Scan(model, data, metric, levels, pattern)
    return scan.of_layer(scan.names(None)[place])


def _done(out, report):
    """What an earlier scan left in a file: a dict from layers to values."""
    if not out.exists():
        return {}
    try:
        known = json.loads(Path(out).read_text())
        same = all(known[name] == value for name, value in report.to_dict().items()
                   if name not in ("layers", "baseline"))  # fmt: skip
        same &= math.isclose(known["baseline"], report.baseline, rel_tol=1e-4, abs_tol=1e-6)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out} is no file of a scan: {first_line(error)}") from error
    if not same:
        raise ValueError(
            f"{out} is of a scan of another model, of other data or other levels: name another "
            f"file, or delete it. Received: {known['metric']}={known['baseline']:g} of "
            f"{known['model']!r}; here: {report.metric}={report.baseline:g} of {report.model!r}"
        )
    return known["layers"]


@contextlib.contextmanager
def _bar(total, done):
    """A progress bar on a terminal; yields a function that is told of each layer."""
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("scanning", total=total, completed=done)

        def advance(name):
            progress.update(task, description=name, advance=1)

        yield advance
