"""How many channels each group keeps, so that the whole meets a budget."""

import math
import numbers

import numpy as np

NEAR = 0.02  # How far from the budget, as a share of it, an outcome may be without a warning.
_BISECTIONS = 60
_TIE = 1e-6
_EXACT = 1e-4  # So near to what was computed beforehand, nothing is to be corrected.
_TRIALS = 6  # How often to cut and measure.
_LEAST_SHARE = 0.125  # Of a group's channels, kept unless `min_channels` says otherwise.


class Sizes:
    """The numbers of channels that one group may keep.

    Args:
        group: a `ChannelGroup`.
        round_to: int, what the number of channels is a multiple of.
        min_channels: int, the fewest to keep; None for an eighth of them.
    """

    def __init__(self, group, round_to, min_channels):
        n = group.channels
        step = round_to // math.gcd(round_to, group.width) if group.counted else 1
        least = math.ceil(_LEAST_SHARE * n) if min_channels is None else min_channels / group.width
        allowed = [k for k in range(step, n, step) if k >= least]
        self.allowed = np.array([*allowed, n] if not group.frozen else [n])

    @property
    def smallest(self):
        """The fewest channels the group may keep."""
        return int(self.allowed[0])

    def nearest(self, wanted):
        """The allowed number nearest to the wanted one; the larger one of two."""
        distance = np.abs(self.allowed - wanted)
        return int(self.allowed[len(distance) - 1 - np.argmin(distance[::-1])])

    def beside(self, kept):
        """The allowed numbers next to `kept`."""
        i = int(np.searchsorted(self.allowed, kept))
        return [int(k) for k in self.allowed[max(0, i - 1) : i + 2] if k != kept]


def check_counts(**counts):
    """Raise `ValueError` for an argument that is no int of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be an int of at least 1. Received: {name}={value!r}")


def fit_budget(sizes, scores, cost, target, uniform=False):
    """Choose how many channels each group keeps, so that the cost is near the target.

    Channels of all groups are ranked together by their scores, or every group keeps the
    same share; then groups change by a step as long as that brings the cost nearer.

    Args:
        sizes: list of `Sizes`.
        scores: list of float arrays, one score a channel, comparable across groups.
        cost: function from an int array, channels kept by each group, to a float.
        target: float.
        uniform: bool, the same share for every group.

    Returns:
        Int array, how many channels each group keeps.
    """
    # Among equal scores every group gives its share.
    ordered = [np.sort(s) + _TIE * np.arange(len(s)) / len(s) for s in scores]

    def kept_above(threshold):
        if uniform:
            wanted = [len(s) * (1 - threshold) for s in ordered]
        else:
            wanted = [len(s) - np.searchsorted(s, threshold) for s in ordered]
        return np.array([one.nearest(k) for one, k in zip(sizes, wanted)])

    low, high = 0.0, 1.0 if uniform else float(max(s[-1] for s in ordered)) + 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(kept_above(middle)) > target else (low, middle)
    candidates = [kept_above(low), kept_above(high)]
    kept = min(candidates, key=lambda k: abs(cost(k) - target))
    return _refined(kept, sizes, cost, target)


def _refined(kept, sizes, cost, target):
    error = abs(cost(kept) - target)
    while True:
        best = None
        for g, one in enumerate(sizes):
            for number in one.beside(kept[g]):
                changed = kept.copy()
                changed[g] = number
                new = abs(cost(changed) - target)
                if new < error:
                    best, error = changed, new
        if best is None:
            return kept
        kept = best


def fit_measured(kept_for, measured, everything, share, near):
    """Aim lower or higher until what comes out, measured, is the share that was asked for.

    Costs are computed from what rules say; where products are not followed, less or more
    than that leaves the model with the channels. Then the aim is corrected by regula falsi.

    Args:
        kept_for: function from a cost to what `fit_budget` makes of it.
        measured: function from an int array, channels kept by each group, to `(outcome,
            share reached, share computed beforehand)`.
        everything: float, the cost of the whole model.
        share: float, what was asked for.
        near: float, how far from it, as a share of it, is near enough.

    Returns:
        `(kept, outcome, share reached)` of the trial that came nearest.
    """
    low, high, aim = (0.0, 0.0), (1.0, 1.0), share  # Computed beforehand, and reached.
    tried, best = set(), None
    while len(tried) < _TRIALS:
        kept = kept_for(aim * everything)
        if tuple(kept) in tried:
            break
        tried.add(tuple(kept))
        outcome, reached, expected = measured(kept)
        if best is None or abs(reached - share) < abs(best[2] - share):
            best = kept, outcome, reached
        if abs(reached - share) <= near * share or abs(reached - expected) <= _EXACT:
            break
        point = expected, reached
        low, high = (point, high) if reached < share else (low, point)
        # Not to the end of the line, which may be far from straight.
        along = np.clip((share - low[1]) / (high[1] - low[1]), 0.05, 0.95)
        aim = low[0] + along * (high[0] - low[0])
    return best
