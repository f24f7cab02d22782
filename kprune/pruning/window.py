"""When a run of training prunes, and the schedule that follows from it for a sparsity."""

import bisect
import dataclasses
import numbers

from kprune._keras import backend
from kprune.pruning.schedules import PolynomialDecay

_UPDATES = 50
_LARGEST_FREQUENCY = 100


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a run in which sparsity rises; `kprune.Pruning`'s arguments.

    Attributes:
        begin: when pruning begins: float, a fraction of the run, or int, a step of it.
        end: when the sparsity is reached; as `begin`.
        frequency: int, steps between updates; None for the default.
    """

    begin: float | int = 0.1
    end: float | int = 0.7
    frequency: int | None = None

    def check(self):
        """Return the window if it is sound, else raise `ValueError`."""
        begin, end, frequency = self.begin, self.end, self.frequency
        for name, value in (("begin", begin), ("end", end)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or value < 0:
                good = False
            else:
                good = isinstance(value, numbers.Integral) or value <= 1
            if not good:
                raise ValueError(
                    f"`{name}` must be a float in [0, 1], a fraction of the run, or an int >= 0, "
                    f"a step. Received: {name}={value!r}"
                )
        same_kind = isinstance(begin, numbers.Integral) == isinstance(end, numbers.Integral)
        if same_kind and begin > end:
            raise ValueError(
                f"`begin` must not come after `end`. Received: begin={begin!r}, end={end!r}"
            )
        if frequency is not None and (not isinstance(frequency, numbers.Integral) or frequency < 1):
            raise ValueError(f"`frequency` must be an int >= 1. Received: frequency={frequency!r}")
        return self

    def schedule(self, group, run):
        """Return the schedule that takes weights to the sparsity of their setting within a run.

        Args:
            group: their `Group`.
            run: the `training.run.Run`, or what has its attributes.

        Raises:
            ValueError: the length of the run is unknown.
        """
        final = group.setting.sparsity
        if run.total is None:
            raise ValueError(
                "The length of this `fit` is unknown, so no schedule follows from "
                f"sparsity={final:g}. Pass `steps_per_epoch` to `fit`, or "
                "`schedule=kprune.PolynomialDecay(...)` with steps of your own to Pruning."
            )
        begin, end = (_to_step(value, run.total) for value in (self.begin, self.end))
        begin = min(begin, run.total - 1)
        end = min(max(end, begin), run.total)
        most = self.frequency or _LARGEST_FREQUENCY
        every = min(max(self.frequency or round((end - begin) / _UPDATES), 1), most)

        def schedule_from(first):
            return PolynomialDecay(0.0, final, first + begin, first + end, frequency=every)

        first = _beginning(group, run, lambda first: expected(schedule_from(first), run.now))
        if first is not None:
            return schedule_from(first)
        # Neither a dense model nor this schedule resumed: go on from what there is.
        current = group.held_share()
        begin_step = max(run.first + begin, run.now)
        end_step = max(run.first + end, begin_step)
        return PolynomialDecay(min(current, final), final, begin_step, end_step, frequency=every)

    def again(self, groups, run):
        """Return groups as they go on in a run that has turned out to be another one.

        Those that were asked for a sparsity get new schedules.
        """
        return [
            group if group.setting.sparsity is None else group.by(self.schedule(group, run))
            for group in groups
        ]


def expected(schedule, step):
    """Return the sparsity that a schedule has brought about by a step."""
    update = schedule.last_update(step)
    return 0.0 if update is None else schedule(update)[1]


def _beginning(group, run, sparsity_from):
    """Return the step at which a run has begun, as the zeros of a group tell; None if none fits.

    Args:
        group: a `Group`.
        run: the `Run`.
        sparsity_from: function from such a step to the sparsity that the group has by now.
    """
    for first in run.beginnings:
        if group.is_at(sparsity_from(first)):
            return first
    if run.repeated < 2 or not backend.is_concrete():
        return None
    # The earlier it has begun, the more zeros there are.
    others = range(run.first - 1, run.first - run.repeated, -1)
    i = bisect.bisect_left(others, -group.slack, key=lambda one: group.lacking(sparsity_from(one)))
    return others[i] if i < len(others) and group.is_at(sparsity_from(others[i])) else None


def _to_step(value, total):
    return int(value) if isinstance(value, numbers.Integral) else round(value * total)
