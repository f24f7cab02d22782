"""What pruning at once did to each weight."""

import dataclasses
from typing import Any

from kprune.report import tables
from kprune.report.tables import Printable


@dataclasses.dataclass(frozen=True)
class WeightResult:
    """One pruned weight.

    Attributes:
        name: str, its path.
        shape: tuple.
        method: str, how it was pruned.
        sparsity: float, its share of zeros.
        error: float, the change of the layer's output on the data, as the share of the output's
            squares; None where the weight is in no product that was seen.
        singular: bool, whether some of its inputs follow from others on the data, or are always
            zero, so that damping (1% of the mean second moment) decides what becomes of it.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    sparsity: float
    error: float | None
    singular: bool = False


@dataclasses.dataclass(repr=False)
class OneShotReport(Printable):
    """What `prune_once` did; prints as a table.

    Attributes:
        model: str, the model's name.
        method: str.
        weights: list of `WeightResult`s, in the order in which they were pruned.
        before: dict from a metric's name to its value on the data, before; None without labels.
        after: the same, after.
    """

    model: str
    method: str
    weights: list[WeightResult]
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __rich__(self):
        notes = ["error: of the layer's output on the data, the share of its squares that changed."]
        singular = [one.name for one in self.weights if one.singular]
        if singular:
            notes.append(
                f"Some inputs of {len(singular)} of {len(self.weights)} weights follow from others "
                f"on these data, or are zero ({tables.listed(singular)}): what they multiply is "
                "decided by damping. More examples may help."
            )
        for name in self.before or ():
            notes.append(f"{name}: {self.before[name]:.4f} before, {self.after[name]:.4f} after.")
        return tables.table(
            ["weight", "shape", "method", ">sparsity", ">error"],
            [
                (
                    one.name,
                    tables.shape(one.shape),
                    one.method,
                    tables.percent(one.sparsity),
                    tables.MISSING if one.error is None else f"{one.error:.2e}",
                )
                for one in self.weights
            ],
            title=f"{self.model}, pruned at once ({self.method})",
            notes=notes,
        )
