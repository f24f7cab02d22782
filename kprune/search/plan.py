"""Which step is next: a plan that asks for points, and goes by what came of those before.

A plan is a generator of `Step`s, which is sent the `Point` of each. It knows nothing of models, so
that a search that was cut short goes on by sending it again the points that there are.
"""

import dataclasses
import math

from kprune.search.goal import WORTH

# Sparse kernels begin to pay when about two thirds are zero (see `targets.target`).
_USEFUL_DENSITY = 0.3
_CLOSE = 1.15  # Between what held and what did not, so that nothing between them is worth a round.
_LITTLE, _MUCH = 0.25, 0.75  # Of the drop that is allowed.
_LONGER, _SHORTER = 1.5, 0.6  # So much is the next stride, of the last.
_TRIALS = 5  # To come near a budget by one way.
# Of a budget. Nearer to it, accuracy would gain little from more of the model.
_INSIDE, _MIDDLE = 0.93, 0.97
_SAME = 0.01  # Of what is left: so little more or less changes nothing.
_CLUSTERS = 16
_CODES = 0.25  # What weights in 8 bits take, as a share of those in float32.
_ROOM = 0.6  # So much of a budget may be taken by what is not weights.
_MOST_DENSITY = 0.95


@dataclasses.dataclass(frozen=True)
class Ways:
    """What can be done for a model on a target.

    Attributes:
        sparse: whether the target has kernels that are faster with zeros in this model.
        mostly_sparse: whether these compute at least half of it.
        prepared: whether `prepare` should change the model for that.
        channels: whether channels can be removed.
        by_latency: whether that is by measured latency, where latency is the budget.
        depth: whether whole blocks may leave with them.
        quantize: tuple of the kinds of `quantize` to try, the best first.
        trains: whether there is a `fit`.
        clusters: whether the format stores clustered weights smaller.
    """

    sparse: bool
    mostly_sparse: bool
    prepared: bool
    channels: bool
    by_latency: bool
    depth: bool
    quantize: tuple
    trains: bool
    clusters: bool


def plan(goal, ways, dense, rounds):
    """Return the generator of steps for a goal.

    Args:
        goal: a `Goal`.
        ways: a `Ways`.
        dense: the `Point` of the dense file.
        rounds: int, how many steps there may be at most.
    """
    return _Plan(goal, ways, dense, rounds).steps()


class _Plan:
    def __init__(self, goal, ways, dense, rounds):
        self._goal, self._ways, self._dense, self._left = goal, ways, dense, rounds

    def steps(self):
        """The generator of the goal's kind."""
        if self._goal.size is not None:
            return self._small()
        return self._fast() if self._goal.latency is None else self._in_time()

    def _ask(self, step):
        self._left -= 1
        return (yield step)

    def _fast(self):
        """As fast as it gets within `max_drop`."""
        dense, ways = self._dense, self._ways
        rounded = yield from self._quantized(dense)
        # The last round is for 8 bits, where they are faster.
        spare = int(rounded is not None)
        best, zeros_first = dense, ways.sparse and (ways.mostly_sparse or not ways.channels)
        if zeros_first:
            best = yield from self._climb(dense, _ByZeros(ways), spare)
        if ways.channels:
            pays = rounded is not None and rounded.speedup > best.speedup
            best = yield from self._climb(dense if pays else best, _ByChannels(ways), spare)
        if rounded is not None and best.number and not best.step.sparsity:
            yield from self._quantized(best)
        elif ways.sparse and not zeros_first:
            yield from self._climb(best, _ByZeros(ways), 0)

    def _in_time(self):
        """Down to a share of the latency, by each of the ways."""
        goal, dense = self._goal, self._dense
        rounded = yield from self._quantized(dense)
        if self._ways.sparse:
            yield from self._approach(dense, _ByZeros(self._ways), _ByZeros.first)
        if self._ways.channels:
            by = _ByChannels(self._ways)
            yield from self._approach(dense, by, math.sqrt(goal.budget))
            if rounded is not None and not goal.met(rounded):
                whole = rounded.latency_share
                by = _ByChannels(self._ways, rounded.step)
                yield from self._approach(dense, by, goal.budget / whole, whole)

    def _small(self):
        """Down to a share of the gzipped size: 8 bits first, as they cost least; then zeros."""
        goal, best = self._goal, None
        for kind in self._ways.quantize:
            point = yield from self._rounded(self._dense, kind)
            if goal.met(point):
                return
            # What a file has besides its weights, as of a loop unrolled, no zeros make smaller.
            fits = point.file and goal.share(point) - _CODES < _ROOM * goal.budget
            if fits and (best is None or goal.share(point) < goal.share(best)):
                best = point
        whole = 1.0 if best is None else goal.share(best)
        weights = 1.0 if best is None else _CODES
        density = min(_MOST_DENSITY, max(goal.budget - whole + weights, 0.01) / weights)
        by = _ByZeros(self._ways, best and best.step)
        last = yield from self._approach(self._dense, by, density, whole)
        if not goal.met(last) and self._ways.clusters and last.number:
            step = dataclasses.replace(last.step, parent=last.number, quantize=None, aware=False)
            yield from self._ask(dataclasses.replace(step, clusters=_CLUSTERS))

    def _quantized(self, parent):
        """Round the weights, in the first way that holds and is faster; None without any."""
        for kind in self._ways.quantize:
            point = yield from self._rounded(parent, kind)
            if self._goal.holds(point) and _faster(point, parent):
                return point
        return None

    def _rounded(self, parent, kind):
        """Round the weights; train for it where rounding costs too much, and is worth it."""
        step = dataclasses.replace(parent.step, parent=parent.number, quantize=kind, aware=False)
        point = yield from self._ask(step)
        worth = self._goal.size is not None or _faster(point, parent)
        if point.file and worth and not self._goal.holds(point) and self._ways.trains:
            point = yield from self._ask(dataclasses.replace(step, aware=True))
        return point

    def _climb(self, start, way, spare):
        """Raise the compression while the goal holds and it gains; go back where it does not.

        Returns the last point that held, or `start`; so many rounds are left to `spare`.
        """
        kept, failed = start, None
        # Between `kept_left` and `failed` is what remains to be tried.
        kept_left = min(way.most, way.left(start.step))
        left = min(way.first, way.most)
        if kept_left < way.most:
            left = kept_left * way.first
        while True:
            point = yield from self._ask(way.step(kept, left))
            if point.file and not _faster(point, kept):
                return kept  # Nor is it with less compression.
            if self._goal.holds(point):
                stride = math.log(kept_left / left) * self._pace(point)
                kept, kept_left = point, left
            elif not point.file and point.seconds.get("fit") and kept is start:
                return kept  # Trained for nothing: no such file can be made.
            else:
                failed = left
            if self._left <= spare or kept_left / (failed or way.least) < _CLOSE:
                return kept
            if failed is None:
                left = max(way.least, kept_left * math.exp(-stride))
            else:
                left = math.sqrt(kept_left * failed)

    def _pace(self, point):
        """How much longer or shorter the next stride is, by how much of the drop was used."""
        used = point.drop / self._goal.max_drop if self._goal.max_drop else 1.0
        return _LONGER if used < _LITTLE else _SHORTER if used > _MUCH else 1.0

    def _approach(self, start, way, first, whole=1.0):
        """Come near the budget, from above where there is training; return the last point.

        Args:
            start: the `Point` to begin at.
            way: how.
            first: float, how much to leave at first.
            whole: float, what share of the dense file there is where all is left.
        """
        goal = self._goal
        above, below = (1.0, whole), None  # (what is left, what share of the dense file that is)
        parent, left, last = start, max(way.least, first), start
        for _ in range(_TRIALS):
            point = yield from self._ask(way.step(parent, left))
            if point.file is None:
                return last
            last, share = point, goal.share(point)
            if _INSIDE * goal.budget <= share <= goal.budget:
                return last
            before = above
            if share > goal.budget:
                above = left, share
                parent = point if goal.holds(point) else parent
                other = below or before
            else:
                below, other = (left, share), above
            wanted = max(way.least, _along((left, share), other, _MIDDLE * goal.budget))
            if abs(math.log(wanted / left)) < _SAME:
                return last
            left = wanted
        return last


class _ByZeros:
    """Zeros in the weights: what is left is their density.

    Args:
        ways: a `Ways`.
        rounded: the `Step` by which weights are rounded in the files; None for float32.
    """

    first, least = 0.2, 0.01

    def __init__(self, ways, rounded=None):
        self._prepared, self._rounded = ways.prepared, rounded
        self.most = _USEFUL_DENSITY if ways.sparse else 1.0  # With more, nothing is gained.

    def step(self, parent, left):
        """The step to so much from a parent, a `Point`."""
        step = _with_rounding(parent, self._rounded)
        return dataclasses.replace(step, sparsity=1 - left, prepared=self._prepared)

    def left(self, step):
        """How much a step leaves."""
        return 1 - step.sparsity


class _ByChannels:
    """Channels removed: what is left is the share of the FLOPs or the latency. As `_ByZeros`."""

    first, most, least = 0.6, 1.0, 0.02

    def __init__(self, ways, rounded=None):
        self._rounded = rounded
        self._how = {"by_latency": ways.by_latency, "depth": ways.depth}

    def step(self, parent, left):
        """The step to so much from a parent, a `Point`."""
        step = _with_rounding(parent, self._rounded)
        return dataclasses.replace(step, channels=left, **self._how)

    def left(self, step):
        """How much a step leaves."""
        return step.channels


def _with_rounding(parent, rounded):
    kind, aware = (rounded.quantize, rounded.aware) if rounded else (None, False)
    return dataclasses.replace(parent.step, parent=parent.number, quantize=kind, aware=aware)


def _faster(point, other):
    return point.speedup >= other.speedup * WORTH


def _along(point, other, aim):
    """How much should be left for a share to aim at, on the line through two points."""
    (left, share), (another, its) = point, other
    slope = (share - its) / (left - another) if left != another else 0.0
    wanted = left + (aim - share) / slope if slope > 0 else left * aim / share
    return min(max(wanted, left / 4), (left + 1) / 2)
