"""What each layer bears alone, as a table, a picture and settings for pruning."""

import dataclasses
from typing import Any

from kprune._system.type_aliases import FilePath
from kprune.report import plots, tables
from kprune.report.tables import Printable


@dataclasses.dataclass(repr=False)
class SensitivityReport(Printable):
    """The metric of a model with each layer pruned alone; prints as a table.

    Attributes:
        model: str, the model's name.
        metric: str, what was measured.
        mode: "max" or "min", which is better.
        baseline: float, the metric of the model as it is.
        sparsities: list of floats.
        pattern: str.
        values: dict from a layer's path to the metric at each sparsity, None where it was no
            number.
    """

    model: str
    metric: str
    mode: str
    baseline: float
    sparsities: list[float]
    pattern: str
    values: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)

    def layers(self, max_drop: float) -> dict[str, float | None]:
        """Return settings for `Pruning(layers=...)`: the most that each layer bears alone.

        Layers that are pruned together lose more than each alone, so that this is where to begin,
        not where to end.

        Args:
            max_drop: float >= 0, by how much the metric may become worse.

        Returns:
            Dict from a layer's path to the highest of the sparsities up to which the metric is
            within `max_drop` at every level; None where it is at none.
        """
        if not max_drop >= 0:
            raise ValueError(f"`max_drop` is a number of at least 0. Received: {max_drop!r}")
        return {name: self._most(values, max_drop) for name, values in self.values.items()}

    def _most(self, values, max_drop):
        most = None
        for sparsity, value in sorted(zip(self.sparsities, values)):
            if value is None or self._drop(value) > max_drop:
                break
            most = sparsity
        return most

    def _drop(self, value):
        return value - self.baseline if self.mode == "min" else self.baseline - value

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.model,
            "metric": self.metric,
            "mode": self.mode,
            "baseline": self.baseline,
            "sparsities": self.sparsities,
            "pattern": self.pattern,
            "layers": self.values,
        }

    def plot(self, path: FilePath) -> None:
        """Draw a line for each layer into a `.png`, `.svg` or `.pdf` file.

        Raises:
            ImportError: matplotlib is not installed.
        """
        plots.lines(
            path,
            [0.0, *self.sparsities],
            {name: [self.baseline, *values] for name, values in self.values.items()},
            labels=("sparsity of the layer alone", self.metric),
            title=self.model,
        )

    def __rich__(self):
        def written(value):
            return tables.MISSING if value is None else f"{value:.4f}"

        return tables.table(
            ["layer", *(f">{sparsity:g}" for sparsity in self.sparsities)],
            [(name, *map(written, values)) for name, values in self.values.items()],
            title=f"{self.model}, one layer pruned: {self.metric} ({self.baseline:.4f} with none)",
            notes=[f"Columns: the layer's sparsity; {self.pattern}, by magnitude."],
        )
