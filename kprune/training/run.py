"""The optimizer steps of a `fit` call, and the schedule that follows from them."""

import bisect
import numbers
import warnings

from kprune._keras import backend
from kprune._keras.optimizers import steps_made
from kprune.pruning.schedules import PolynomialDecay
from kprune.training.zeros import held_share, is_at

_UPDATES = 50
_LARGEST_FREQUENCY = 100
# By this share of the run may the steps that an optimizer makes differ from those expected.
_TOLERANCE = 0.1


class Run:
    """The steps that one optimizer makes in a `fit` call.

    Attributes:
        now: the step that was reached.
        first: the step at which the whole run begins; before `now` when the run is resumed in a
            later epoch.
        total: how many steps the whole run has; None if unknown.
        last: the step at which it ends; None if unknown.
        beginnings: the steps at which the whole run may have begun, the likeliest first.
        repeated: how many steps before `first` it may have begun, too: where it was cut short
            within an epoch, Keras makes that epoch's steps again.
    """

    def __init__(self, optimizer, epoch, epochs, batches):
        self._optimizer, self._epochs = optimizer, epochs
        self.now = backend.to_int(optimizer.iterations)
        self.beginnings, self.repeated = [self.now], 0
        self.total, self.last = None, None
        self._epoch_began = self.now
        if batches is None or epochs is None:
            return
        accumulated = _accumulation(optimizer)
        made = backend.to_int(steps_made(_innermost(optimizer)))
        self.last = (made + (epochs - epoch) * batches) // accumulated
        earlier = epoch * batches // accumulated
        an_epoch = batches // accumulated
        if not earlier and self.now <= an_epoch:
            self.beginnings.append(0)  # A new run, unless it was cut short in its first epoch.
        elif earlier and self.now >= earlier:
            first = self.now - earlier
            self.repeated = min(first, an_epoch)
            # Most often it began with an optimizer's very first step.
            self.beginnings = [first, first - self.repeated]
        self.total = self.last - self.first
        if self.total < 1:
            raise ValueError(
                "This `fit` call makes no optimizer step, so there is nothing to prune in. "
                f"Received: epochs={epochs}, {batches} batches an epoch, "
                f"gradient_accumulation_steps={accumulated}"
            )

    @property
    def first(self):
        return self.beginnings[0]

    def follow(self, epoch):
        """Take the steps of the epoch that has ended as the measure of those to come.

        An optimizer of a `train_step` of the user's own may make several steps a batch, or one
        every few batches, and a data set may run out.

        Returns:
            Whether the run is clearly another one than was expected.
        """
        now = backend.to_int(self._optimizer.iterations)
        made, self._epoch_began, self.now = now - self._epoch_began, now, now
        if self.last is None or not made:
            return False
        last = now + made * (self._epochs - epoch)
        if abs(last - self.last) <= _TOLERANCE * self.total:
            return False
        self.beginnings, self.repeated = [self.first], 0
        self.last, self.total = last, last - self.first
        return True


def derived_schedule(group, run, begin, end, frequency):
    """Return the schedule that takes weights to the sparsity of their setting within a run.

    Args:
        group: their `selection.Group`.
        run: the `Run`, of known length.
        begin: when pruning begins: float, a fraction of the run, or int, a step of it.
        end: when the sparsity is reached; as `begin`.
        frequency: int, steps between updates; None for the default.
    """
    final = group.setting.sparsity
    begin, end = (_to_step(value, run.total) for value in (begin, end))
    begin = min(begin, run.total - 1)
    end = min(max(end, begin), run.total)
    most = frequency or _LARGEST_FREQUENCY
    every = min(max(frequency or round((end - begin) / _UPDATES), 1), most)

    def schedule_from(first):
        return PolynomialDecay(0.0, final, first + begin, first + end, frequency=every)

    first = _beginning(group, run, lambda first: _expected(schedule_from(first), run.now))
    if first is not None:
        return schedule_from(first)
    # Neither a dense model nor this schedule resumed: go on from what there is.
    current = held_share(group)
    begin_step = max(run.first + begin, run.now)
    end_step = max(run.first + end, begin_step)
    return PolynomialDecay(min(current, final), final, begin_step, end_step, frequency=every)


def _beginning(group, run, expected):
    """Return the step at which a run has begun, as the zeros of a group tell; None if none fits.

    Args:
        group: a `selection.Group`.
        run: the `Run`.
        expected: function from such a step to the sparsity that the group has by now.
    """
    for first in run.beginnings:
        if is_at(group, expected(first)):
            return first
    if run.repeated < 2 or not backend.is_concrete():
        return None
    # The earlier it has begun, the more zeros there are.
    others = range(run.first - 1, run.first - run.repeated, -1)
    i = bisect.bisect_left(others, -group.slack, key=lambda one: group.lacking(expected(one)))
    return others[i] if i < len(others) and is_at(group, expected(others[i])) else None


def _expected(schedule, step):
    update = schedule.last_update(step)
    return 0.0 if update is None else schedule(update)[1]


def warn_if_cut_short(schedules, run):
    """Warn of the schedules that end after the run does."""
    for schedule in schedules:
        ends = max(schedule.end_step, schedule.begin_step)
        if run.last is None or schedule.final_sparsity is None or run.last >= ends:
            continue
        warnings.warn(
            f"This `fit` ends at step {run.last}, before the schedule does (begin_step="
            f"{schedule.begin_step}, end_step={schedule.end_step}): it will reach sparsity "
            f"{_expected(schedule, run.last):.4g}, not {schedule.final_sparsity:g}.",
            stacklevel=2,
        )


def check_window(begin, end, frequency):
    """Raise `ValueError` unless the arguments of `kprune.Pruning` are sound."""
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


def _innermost(optimizer):
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _accumulation(optimizer):
    return _innermost(optimizer).gradient_accumulation_steps or 1


def _to_step(value, total):
    return int(value) if isinstance(value, numbers.Integral) else round(value * total)
