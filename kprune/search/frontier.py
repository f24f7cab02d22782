"""What a search found: all points, the frontier among them, and what is recommended."""

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kprune._system.type_aliases import FilePath
from kprune.report import plots, tables
from kprune.report.tables import Printable
from kprune.search.goal import Goal
from kprune.search.points import Point


@dataclasses.dataclass(repr=False)
class OptimizeResult(Printable):
    """What `kprune.optimize` made; prints as a table.

    Attributes:
        target: str, its name.
        goal: `Goal`, what was asked for.
        points: list of `Point`s in the order in which they were made, the dense one first. Their
            `path` is that of the file; None where a round made none.
        best: the `Point` that is recommended.
        met: bool, whether it is all that was asked for.
        folder: str, where the files are.
        notes: sentences on what was not tried, and why.
        machine: processor, operating system and the runtimes' versions.
    """

    target: str
    goal: Goal
    points: list[Point]
    folder: str
    notes: list[str]
    machine: dict[str, Any]

    @property
    def best(self) -> Point:
        return self.goal.best(self.points)

    @property
    def met(self) -> bool:
        return self.goal.met(self.best)

    @property
    def frontier(self) -> list[Point]:
        """The points that no other one beats in metric, latency and size at once, best first."""
        made = [point for point in self.points if point.drop is not None]
        front = [one for one in made if not any(_beats(other, one) for other in made)]
        return sorted(front, key=lambda point: (point.drop, point.latency_share, point.number))

    @property
    def overhead(self) -> float | None:
        """The share of the time that went neither into `fit` nor into `evaluate`."""
        whole = sum(sum(point.seconds.values()) for point in self.points)
        users = sum(
            point.seconds.get(name, 0.0) for point in self.points for name in ("fit", "evaluate")
        )
        return 1 - users / whole if whole else None

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "target": self.target,
            "goal": dataclasses.asdict(self.goal),
            "met": self.met,
            "best": self.best.number,
            "frontier": [point.number for point in self.frontier],
            "points": [point.to_dict() for point in self.points],
            "folder": self.folder,
            "notes": self.notes,
            "machine": self.machine,
            "overhead": self.overhead,
        }

    def why(self) -> str:
        """Say in a sentence which file is recommended, and why."""
        best, goal = self.best, self.goal
        file = Path(best.path or "").name
        if not self.met:
            return (
                f"No point is all that was asked for ({goal}). The nearest is {file}: "
                f"{_in_words(best)}."
            )
        if not best.number:
            return f"The dense file, {file}: nothing that was tried is faster within that ({goal})."
        first = "the fastest" if goal.budget is None else "the one that loses the least"
        return f"{file} ({best.step}): {_in_words(best)}; {first} of what holds ({goal})."

    def __rich__(self):
        made = [point if point.file else None for point in self.points]
        key = {
            "round": [str(point.number) for point in self.points],
            "what is left": [str(point.step) for point in self.points],
        }
        worth = {
            ">metric": [_figure(point.metric, "{:.4f}") for point in self.points],
            ">change": [_figure(point.drop, "{:+.4f}", -1) for point in self.points],
            ">speed": [tables.ratio(point and point.speedup) for point in made],
            ">latency": [tables.milliseconds(point.latency) for point in self.points],
            "verdict": self._verdicts(),
        }
        sizes = {
            ">size": [tables.size(point.bytes) for point in self.points],
            ">gzipped": [tables.size(point.gzipped_bytes) for point in self.points],
        }
        title = f"Optimized for {self.target}: {self.goal}"
        notes = [self.why(), *self.notes, *self._times()]
        return tables.Parts(key, (title, worth, notes), ("Size", sizes, []))

    def _verdicts(self):
        front, best = {point.number for point in self.frontier}, self.best.number
        found = []
        for point in self.points:
            if point.number == best:
                found.append("recommended" if self.met else "the nearest")
            elif point.drop is None:
                found.append(f"no: {point.reason}")
            elif not self.goal.holds(point):
                found.append("loses too much")
            else:
                found.append("on the frontier" if point.number in front else "")
        return found

    def _times(self):
        whole = sum(sum(point.seconds.values()) for point in self.points)
        if not whole:
            return []
        took = datetime.timedelta(seconds=round(whole))
        return [
            f"{len(self.points)} rounds took {took}, of which {self.overhead:.0%} went neither into"
            " fit nor into evaluate."
        ]

    def plot(self, path: FilePath) -> None:
        """Draw the metric over speed and over size into a `.png`, `.svg` or `.pdf` file.

        Raises:
            ImportError: matplotlib is not installed.
        """
        made = [point for point in self.points if point.drop is not None]
        front = {point.number for point in self.frontier}
        groups = {
            "recommended": [p for p in made if p.number == self.best.number],
            "frontier": [p for p in made if p.number in front and p.number != self.best.number],
            "others": [p for p in made if p.number not in front],
        }

        def panel(label, of):
            return label, {
                group: [(of(point), point.metric, str(point.number)) for point in points]
                for group, points in groups.items()
            }

        panels = [
            panel("times as fast as dense", lambda point: point.speedup),
            panel("gzipped size, share of dense", lambda point: point.size_share),
        ]
        plots.scatter(
            path, panels, y="metric", title=f"{self.target}: {self.goal} (numbers are rounds)"
        )


def _figure(value, form, sign=1):
    return tables.MISSING if value is None else form.format(sign * value + 0.0)


def _beats(a, b):
    first = (a.drop, a.latency_share, a.size_share)
    second = (b.drop, b.latency_share, b.size_share)
    return all(x <= y for x, y in zip(first, second)) and first != second


def _in_words(point):
    how = "" if point.measured else " (estimated)"
    share = tables.percent(point.size_share)
    return (
        f"{tables.ratio(point.speedup)} as fast as dense{how}, {share} of its gzipped size, "
        f"metric {point.metric:.4f} ({0.0 - point.drop:+.4f})"
    )
