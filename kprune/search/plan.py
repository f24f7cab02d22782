"""Which step is next: a plan that asks for points, and goes by what came of those before.

A plan is a generator of `Step`s, which is sent the `Point` of each. It knows nothing of models, so
that a search that was cut short goes on by sending it again the points that there are.
"""

import dataclasses
import math

# Sparse kernels begin to pay when about two thirds are zero (see `targets.target`).
_USEFUL_DENSITY = 0.3
_FIRST_DENSITY, _FIRST_SHARE = 0.2, 0.6
_LEAST_DENSITY, _LEAST_SHARE = 0.01, 0.02
_WORTH = 1.03  # How much faster the next point has to be: less is noise.
_CLOSE = 1.15  # Between what held and what did not, so that nothing between them is worth a round.
_LITTLE, _MUCH = 0.25, 0.75  # Of the drop that is allowed.
_LONGER, _SHORTER = 1.5, 0.6  # So much is the next stride, of the last.
_TRIALS = 5  # To come near a budget by one way.
_INSIDE, _MIDDLE = (
    0.93,
    0.97,
)  # Of a budget: nearer to it, accuracy would gain little from more of the model.
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
        quantize: tuple of the kinds of `quantize` to try, the best first.
        trains: whether there is a `fit`.
        clusters: whether the format stores clustered weights smaller.
    """

    sparse: bool
    mostly_sparse: bool
    prepared: bool
    channels: bool
    quantize: tuple
    trains: bool
    clusters: bool


def plan(goal, ways, dense, rounds):
    """Return the generator of steps for a goal.

    Args:
        goal: a `Goal`.
        ways: a `Ways`.
        dense: the `Point` of the dense file.
        rounds: int, how many points there may be at most.
    """
    if goal.size is not None:
        return _small(goal, ways, dense)
    return _fast(goal, ways, dense, rounds) if goal.latency is None else _in_time(goal, ways, dense)


def _fast(goal, ways, dense, rounds):
    """As fast as it gets within `max_drop`."""
    rounded = yield from _quantized(goal, ways, dense)
    # The last round is for 8 bits, where they are faster.
    last = rounds - (rounded is not None)
    best = dense
    if ways.sparse and (ways.mostly_sparse or not ways.channels):
        best = yield from _climb(goal, dense, _by_zeros(ways), last)
    if ways.channels:
        pays = rounded is not None and rounded.speedup > best.speedup
        best = yield from _climb(goal, dense if pays else best, _by_channels(), last)
    if rounded is not None and best.number and not best.step.sparsity:
        yield from _quantized(goal, ways, best)
    elif ways.sparse and not best.step.sparsity:
        yield from _climb(goal, best, _by_zeros(ways), last)


def _in_time(goal, ways, dense):
    """Down to a share of the latency, by each of the ways."""
    rounded = yield from _quantized(goal, ways, dense)
    if ways.sparse:
        yield from _approach(goal, dense, _by_zeros(ways), _FIRST_DENSITY)
    if ways.channels:
        yield from _approach(goal, dense, _by_channels(), math.sqrt(goal.budget))
        if rounded is not None and not goal.met(rounded):
            by, whole = _by_channels(rounded.step.quantize), rounded.latency_share
            yield from _approach(goal, dense, by, goal.budget / whole, whole)


def _small(goal, ways, dense):
    """Down to a share of the gzipped size: 8 bits first, as they cost least; then zeros."""
    best = None
    for kind in ways.quantize:
        point = yield from _rounded(goal, ways, dense, kind)
        if goal.met(point):
            return
        # What a file has besides its weights, as of a loop unrolled, no zeros make smaller.
        fits = point.file and goal.share(point) - _CODES < _ROOM * goal.budget
        if fits and (best is None or goal.share(point) < goal.share(best)):
            best = point
    kind, whole = (None, 1.0) if best is None else (best.step.quantize, _CODES)
    rest = 0.0 if best is None else goal.share(best) - _CODES
    density = min(_MOST_DENSITY, max(goal.budget - rest, 0.01) / whole)
    by = _by_zeros(ways, kind)
    last = yield from _approach(goal, dense, by, density, whole + rest)
    if not goal.met(last) and ways.clusters and last.number:
        yield dataclasses.replace(last.step, parent=last.number, quantize=None, clusters=_CLUSTERS)


@dataclasses.dataclass(frozen=True)
class _Way:
    """One way to compress: from how much is left of a model to the step."""

    step: object  # function of the parent, a `Point`, and how much is left
    left: object  # function of a `Step`: how much it has left
    first: float
    most: float  # Where more is left, nothing is gained.
    least: float


def _by_zeros(ways, quantize=None):
    def step(parent, left):
        return dataclasses.replace(
            parent.step,
            parent=parent.number,
            sparsity=1 - left,
            quantize=quantize,
            prepared=ways.prepared,
            aware=False,
        )

    most = _USEFUL_DENSITY if ways.sparse else 1.0
    return _Way(step, lambda s: 1 - s.sparsity, _FIRST_DENSITY, most, _LEAST_DENSITY)


def _by_channels(quantize=None):
    def step(parent, left):
        return dataclasses.replace(
            parent.step, parent=parent.number, channels=left, quantize=quantize, aware=False
        )

    return _Way(step, lambda s: s.channels, _FIRST_SHARE, 1.0, _LEAST_SHARE)


def _quantized(goal, ways, parent):
    """Round the weights, in the first way that works; None where that is no faster."""
    for kind in ways.quantize:
        point = yield from _rounded(goal, ways, parent, kind)
        if point.file is not None:
            return point if point.speedup >= parent.speedup * _WORTH else None
    return None


def _rounded(goal, ways, parent, kind):
    """Round the weights; train for it where rounding costs too much, and is worth it."""
    step = dataclasses.replace(parent.step, parent=parent.number, quantize=kind)
    point = yield step
    worth = goal.size is not None or point.speedup >= parent.speedup * _WORTH
    if point.file is not None and worth and not goal.holds(point) and ways.trains:
        point = yield dataclasses.replace(step, aware=True)
    return point


def _climb(goal, start, way, last):
    """Raise the compression while the goal holds and it gains; go back where it does not.

    Returns the last point that held, or `start`; after round `last` in any case.
    """
    kept, failed = start, None
    # Between `kept_left` and `failed` is what remains to be tried.
    kept_left = min(way.most, way.left(start.step))
    left = way.first * kept_left if kept_left < way.most else min(way.first, way.most)
    while True:
        point = yield way.step(kept, left)
        if goal.holds(point):
            if point.speedup < kept.speedup * _WORTH:
                return kept
            stride = math.log(kept_left / left) * _pace(goal, point)
            kept, kept_left = point, left
        else:
            failed = left
        if point.number >= last or kept_left / (failed or way.least) < _CLOSE:
            return kept
        if failed is None:
            left = max(way.least, kept_left * math.exp(-stride))
        else:
            left = math.sqrt(kept_left * failed)


def _pace(goal, point):
    """How much longer or shorter the next stride is, by how much of the drop was used."""
    used = point.drop / goal.max_drop if goal.max_drop else 1.0
    return _LONGER if used < _LITTLE else _SHORTER if used > _MUCH else 1.0


def _approach(goal, start, way, first, whole=1.0):
    """Come near the budget, from above where there is training; return the last point.

    Args:
        goal: a `Goal`.
        start: the `Point` to begin at.
        way: a `_Way`.
        first: float, how much to leave at first.
        whole: float, what share of the dense file there is where all is left.
    """
    above, below = (1.0, whole), None  # (what is left, what share of the dense file that is)
    parent, left, last = start, max(way.least, first), start
    for _ in range(_TRIALS):
        point = yield way.step(parent, left)
        if point.file is None:
            return last
        last, share = point, goal.share(point)
        if _INSIDE * goal.budget <= share <= goal.budget:
            return last
        before = above, below
        if share > goal.budget:
            above = left, share
            parent = point if goal.holds(point) else parent
        else:
            below = left, share
        other = below or before[0] if share > goal.budget else above
        wanted = max(way.least, _along((left, share), other, _MIDDLE * goal.budget))
        if abs(math.log(wanted / left)) < _SAME:
            return last
        left = wanted
    return last


def _along(point, other, aim):
    """How much should be left for a share to aim at, on the line through two points."""
    (left, share), (another, its) = point, other
    slope = (share - its) / (left - another) if left != another else 0.0
    wanted = left + (aim - share) / slope if slope > 0 else left * aim / share
    return min(max(wanted, left / 4), (left + 1) / 2)
