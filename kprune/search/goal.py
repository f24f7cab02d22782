"""What `optimize` is asked for: how much may be lost, or how fast or small the file has to be."""

import dataclasses
import math
import numbers
from collections.abc import Sequence

from kprune.search.points import Point

NEAR = 0.05  # By this share of it may a latency be exceeded: no better can it be measured.
MAX_DROP = 0.01
WORTH = 1.03  # How much faster is faster: less is noise.


@dataclasses.dataclass(frozen=True)
class Goal:
    """The limit of a search, and what is best within it.

    Attributes:
        max_drop: how much worse than the dense file's the metric may be; None for any.
        relative: whether `max_drop` is a share of the dense file's metric.
        latency: the share of the dense file's latency to come down to; None for as low as it gets.
        size: the share of the dense file's gzipped bytes to come down to; None as above.
        mode: `"max"` where a higher metric is better, `"min"` where a lower one is.
    """

    max_drop: float | None = None
    relative: bool = False
    latency: float | None = None
    size: float | None = None
    mode: str = "max"

    @property
    def budget(self) -> float | None:
        """The share to come down to; None for as low as it gets."""
        return self.size if self.latency is None else self.latency

    def drop(self, metric: float, dense: float) -> float:
        """How much worse a metric is than the dense file's; negative where it is better."""
        lost = dense - metric if self.mode == "max" else metric - dense
        return lost / abs(dense) if self.relative and dense else lost

    def share(self, point: Point) -> float:
        """What a point has left of the dense file's size or latency: the budget's kind."""
        return point.size_share if self.size is not None else point.latency_share

    def holds(self, point: Point) -> bool:
        """Whether a point has a file, and a metric within `max_drop`."""
        if point.drop is None:
            return False
        return self.max_drop is None or point.drop <= self.max_drop + 1e-9

    def met(self, point: Point) -> bool:
        """Whether a point is all that was asked for."""
        near = 0 if self.latency is None else NEAR
        within = self.budget is None or self.share(point) <= self.budget * (1 + near)
        return self.holds(point) and within

    def best(self, points: Sequence[Point]) -> Point:
        """The point to recommend, of some of which at least one has a file.

        Of those that are all that was asked for: the one that loses the least, with a budget of
        all, and without of those that are about as fast as the fastest. Where none is, the one
        that comes nearest to the budget.
        """
        made = [point for point in points if point.drop is not None]
        met = [point for point in made if self.met(point)]
        if not met:
            held = [point for point in made if self.holds(point)]
            return min(held or made, key=lambda p: (self.share(p), p.drop))
        if self.budget is None:
            fastest = min(point.latency_share for point in met)
            met = [point for point in met if point.latency_share <= fastest * WORTH]
            return min(met, key=lambda p: (p.drop, p.size_share, p.number))
        return min(met, key=lambda p: (p.drop, self.share(p), p.number))

    def __str__(self):
        budgets = {"latency": self.latency, "gzipped size": self.size}
        parts = [f"{s:.3g} of dense's {kind}" for kind, s in budgets.items() if s is not None]
        if self.max_drop is not None:
            kind = " of it" if self.relative else ""
            parts.append(f"at most {self.max_drop:.3g}{kind} worse than dense")
        return ", ".join(parts) if self.budget else f"the fastest, {parts[0]}"


def make_goal(max_drop, relative, latency, size, mode):
    """Return the `Goal` that arguments of `optimize` stand for.

    Raises:
        ValueError: one that is out of its range, or two budgets.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"`mode` is 'max' or 'min'. Received: mode={mode!r}")
    if latency is not None and size is not None:
        raise ValueError(
            f"Give one budget, `latency` or `size`. Received: latency={latency!r}, size={size!r}"
        )
    for name, share in {"latency": latency, "size": size}.items():
        if share is not None and not (_is_real(share) and 0 < share < 1):
            raise ValueError(
                f"`{name}` is a share of the dense file's, above 0 and below 1. "
                f"Received: {name}={share!r}"
            )
    if max_drop is None and latency is None and size is None:
        max_drop = MAX_DROP
    if max_drop is not None and not (_is_real(max_drop) and 0 <= max_drop < math.inf):
        raise ValueError(
            "`max_drop` is how much worse the metric may become, such as 0.01 for a point of "
            f"accuracy. Received: max_drop={max_drop!r}"
        )
    return Goal(max_drop, bool(relative), latency, size, mode)


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
