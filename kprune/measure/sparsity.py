"""What is zero in a model, and what pruning would and would not touch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from kprune._system.type_aliases import FilePath
from kprune.graphs.load import as_model, to_numpy
from kprune.report import tables
from kprune.report.tables import Printable
from kprune.training.mechanism import groups_in
from kprune.training.wrappers.pruning_wrapper import weights_that_stay


@dataclass
class WeightSparsity:
    """One weight of a model.

    `reason` says why the weight is never pruned, and is None for a prunable one. `target` is the
    final sparsity that the model is being pruned to there, of `unit`: "weights" or "channels";
    None where it is not. `held` says whether its zeros stay in training, without a target.
    """

    name: str
    layer: str
    type: str
    shape: tuple
    size: int
    zeros: int
    reason: str | None
    target: float | None = None
    unit: str = "weights"
    held: bool = False

    @property
    def prunable(self):
        """Whether pruning may set zeros in this weight."""
        return self.reason is None

    @property
    def sparsity(self):
        """Zeros divided by size, in [0, 1]."""
        return self.zeros / self.size if self.size else 0.0

    def to_dict(self):
        """Return the fields and what follows from them as plain data."""
        return asdict(self) | {"prunable": self.prunable, "sparsity": self.sparsity}


@dataclass(repr=False)
class SparsityReport(Printable):
    """What `sparsity` found; prints as a table.

    Attributes:
        model: the model's name.
        rows: a `WeightSparsity` for every weight, in the model's order; not the masks of wrappers.
        pruning: whether the model is being pruned, by a `PruningOptimizer` or by wrappers.
    """

    model: str
    rows: list[WeightSparsity]
    pruning: bool = False

    @property
    def sparsity(self) -> float:
        """Zeros divided by size over all prunable weights: the figure that pruning sets."""
        return _overall([row for row in self.rows if row.prunable])

    @property
    def model_sparsity(self) -> float:
        """Zeros divided by size over all weights, biases and statistics included."""
        return _overall(self.rows)

    def __iter__(self) -> Iterator[WeightSparsity]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.model,
            "pruning": self.pruning,
            "sparsity": self.sparsity,
            "model_sparsity": self.model_sparsity,
            "rows": [row.to_dict() for row in self.rows],
        }

    def __rich__(self):
        rows = [
            (
                row.name,
                row.type,
                tables.shape(row.shape),
                tables.count(row.size),
                tables.count(row.zeros),
                tables.percent(row.sparsity),
                self._prunable(row),
            )
            for row in self.rows
        ]
        size = tables.count(sum(row.size for row in self.rows))
        zeros = tables.count(sum(row.zeros for row in self.rows))
        return tables.table(
            ["weight", "class", "shape", ">size", ">zeros", ">sparsity", "prunable"],
            rows,
            title=f"Sparsity of {self.model}: {tables.percent(self.sparsity)} of its prunable "
            "weights are zero",
            total=("all", "", "", size, zeros, tables.percent(self.model_sparsity), ""),
        )

    def _prunable(self, row):
        if not row.prunable:
            return f"no: {row.reason}"
        if not self.pruning:
            return "yes"
        if row.target is None:
            return "yes, zeros are held" if row.held else "yes, left dense"
        of = "" if row.unit == "weights" else f" of {row.unit}"
        return f"yes, to {tables.percent(row.target)}{of}"


def _overall(rows):
    size = sum(row.size for row in rows)
    return sum(row.zeros for row in rows) / size if size else 0.0


def sparsity(model: keras.Model | FilePath) -> SparsityReport:
    """Count the zeros in each weight of a model, and say what can be pruned and what not, and why.

    Example:

    ```python
    report = kprune.sparsity(model)
    print(report)
    report.sparsity, [row.name for row in report if row.prunable]
    ```

    Args:
        model: a built Keras model, before, during or after pruning, or the path of a `.keras`
            file.

    Returns:
        A `SparsityReport`.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: the model is not built, or the file cannot be loaded.
        FileNotFoundError: there is no such file.
    """
    model = as_model(model)
    targets = {
        id(weight.variable): (group.setting.final_sparsity, group.unit, not group.setting.asks)
        for group in groups_in(model)
        for weight in group.weights
    }
    found = weights_that_stay(model)
    rows = [_row(weight, *targets.get(id(weight.variable), ())) for weight in found]
    return SparsityReport(model.name, rows, pruning=bool(targets))


def _row(weight, target=None, unit="weights", held=False):
    array = to_numpy(weight.variable)
    return WeightSparsity(
        name=weight.name,
        layer=weight.layer.name,
        type=type(weight.layer).__name__,
        shape=tuple(array.shape),
        size=array.size,
        zeros=array.size - int(np.count_nonzero(array)),
        reason=weight.reason,
        target=target,
        unit=unit,
        held=held,
    )
