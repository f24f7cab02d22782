"""How much from each weight: one sparsity for the model, one for each of its weights."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Shape, Tensor
from kprune.pruning.configurable import Configurable
from kprune.pruning.exact_count import lowest_pruned, units_to_prune


class Allocation(Configurable):
    """Base class: how a group of weights shares the pruning.

    Override `sparsities` for an allocation by shape, or `unit_masks` for one that
    looks at the scores.
    """

    def check_sparsity(self, sparsity: float) -> None:
        """Raise `ValueError` for a sparsity that the allocation cannot have."""

    def sparsities(
        self, shapes: Sequence[Shape], sparsity: float | Tensor
    ) -> Sequence[float | Tensor]:
        """Return one sparsity for each weight.

        Args:
            shapes: list of the weights' shapes.
            sparsity: float or float32 scalar tensor, that of the whole group.
        """
        return [sparsity] * len(shapes)

    def total(
        self, counts: Sequence[tuple[int, int]], shapes: Sequence[Shape], sparsity: float
    ) -> int:
        """Return how many units of all the weights a float `sparsity` prunes, an int."""
        return sum(_count(self, i, counts, shapes, sparsity, ()) for i in range(len(counts)))

    def unit_masks(
        self,
        units: Sequence[Tensor],
        counts: Sequence[tuple[int, int]],
        shapes: Sequence[Shape],
        sparsity: float | Tensor,
        exact: Sequence[float],
    ) -> list[Tensor]:
        """Return the masks of the units of each weight.

        Args:
            units: list of float tensors, the scores of each weight's units.
            counts: list of `(n, most)`, see `Pattern.count`.
            shapes: list of the weights' shapes.
            sparsity: float or float32 scalar tensor.
            exact: floats; where `sparsity` equals one of them, counts are computed
                from it in double precision.
        """
        return [
            lowest_pruned([scores], _count(self, i, counts, shapes, sparsity, exact))[0]
            for i, scores in enumerate(units)
        ]


@keras.saving.register_keras_serializable(package="kprune")
class Uniform(Allocation):
    """The same sparsity in every weight.

    Example:

    >>> values = [[[1.0, 2.0], [3.0, 8.0]], [[4.0, 5.0], [6.0, 7.0]]]
    >>> kernels = [keras.Variable(value) for value in values]
    >>> optimizer = kprune.PruningOptimizer(
    ...     keras.optimizers.SGD(), kprune.ConstantSparsity(0.5, 0), allocation=kprune.Uniform()
    ... )
    >>> optimizer.apply([keras.ops.zeros((2, 2))] * 2, kernels)
    >>> [keras.ops.convert_to_numpy(kernel).tolist() for kernel in kernels]
    [[[0.0, 0.0], [3.0, 8.0]], [[0.0, 0.0], [6.0, 7.0]]]
    """


@keras.saving.register_keras_serializable(package="kprune")
class Global(Allocation):
    """The lowest scores of all weights together.

    Layers end up with different sparsities, and their mean over all weights is the
    one asked for. At least one entry of each weight stays. All weights of the group must
    have the same pattern.

    Example: the four lowest of eight, three of the first weight and one of the second.

    >>> values = [[[1.0, 2.0], [3.0, 8.0]], [[4.0, 5.0], [6.0, 7.0]]]
    >>> kernels = [keras.Variable(value) for value in values]
    >>> optimizer = kprune.PruningOptimizer(
    ...     keras.optimizers.SGD(), kprune.ConstantSparsity(0.5, 0), allocation=kprune.Global()
    ... )
    >>> optimizer.apply([keras.ops.zeros((2, 2))] * 2, kernels)
    >>> [keras.ops.convert_to_numpy(kernel).tolist() for kernel in kernels]
    [[[0.0, 0.0], [0.0, 8.0]], [[0.0, 5.0], [6.0, 7.0]]]

    Args:
        floor: float in [0, 1), the share of each weight that stays at the least, so that no layer
            collapses.

    Raises:
        ValueError: `floor` is out of its range, or more than a sparsity leaves.
    """

    def __init__(self, floor: float = 0.0) -> None:
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor < 1:
            raise ValueError(f"`floor` must be a number in [0, 1). Received: floor={floor!r}")
        self.floor = float(floor)

    def check_sparsity(self, sparsity: float) -> None:
        if sparsity > 1 - self.floor + 1e-9:
            raise ValueError(
                f"With floor={self.floor:g} a sparsity is at most {1 - self.floor:g}. "
                f"Received: sparsity={sparsity:g}"
            )

    def scores(self, units: Tensor) -> Tensor:
        """Return the scores that are compared over all weights, from those of one."""
        return units

    def total(
        self, counts: Sequence[tuple[int, int]], shapes: Sequence[Shape], sparsity: float
    ) -> int:
        return _of_all(*self._sums(counts), sparsity, ())

    def unit_masks(
        self,
        units: Sequence[Tensor],
        counts: Sequence[tuple[int, int]],
        shapes: Sequence[Shape],
        sparsity: float | Tensor,
        exact: Sequence[float],
    ) -> list[Tensor]:
        ranked = [self._with_floor(self.scores(one), n) for one, (n, _) in zip(units, counts)]
        return lowest_pruned(ranked, _of_all(*self._sums(counts), sparsity, exact))

    def _sums(self, counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """How many units there are, and how many may go at the most."""
        return sum(n for n, _ in counts), sum(min(m, n - self._least(n)) for n, m in counts)

    def _least(self, n):
        return max(1, math.ceil(self.floor * n - 1e-9))

    def _with_floor(self, scores, n):
        """Scores of which the highest can't be among the lowest of a group."""
        if not self.floor:
            return _never_empty(scores)
        (stays,) = lowest_pruned([scores], math.prod(scores.shape) - self._least(n))
        return ops.where(stays, ops.full((), float("inf"), dtype=scores.dtype), scores)

    def get_config(self) -> dict[str, Any]:
        return {"floor": self.floor} if self.floor else {}


@keras.saving.register_keras_serializable(package="kprune")
class LAMP(Global):
    """The lowest of all weights together, by layer-adaptive magnitudes.

    A score is squared and divided by the sum of the squares of its weight's scores that are not
    lower: the share of what would be left that would go. So the highest of each weight has 1, and
    layers of small weights are not emptied first, as they may be with `Global`. Lee et al.,
    "Layer-adaptive sparsity for the magnitude-based pruning" (2021). Each update of the masks
    sorts every weight.

    Example: of [1, 2, 3, 8] the scores are 1/78, 4/77, 9/73 and 1; of [4, 5, 6, 7] they are
    16/126, 25/110, 36/85 and 1.

    >>> lamp = kprune.pruning.LAMP().scores(keras.ops.array([4.0, 5.0, 6.0, 7.0]))
    >>> [round(float(score), 3) for score in lamp]
    [0.127, 0.227, 0.424, 1.0]

    Args:
        floor: as in `Global`.

    Raises:
        ValueError: as `Global`.
    """

    def scores(self, units: Tensor) -> Tensor:
        flat = ops.reshape(ops.cast(units, "float32"), (-1,))
        # Units that a pattern keeps anyway, of infinite scores, are in no sum.
        known = ops.logical_not(ops.isinf(flat))
        finite = ops.where(known, flat, 0.0)
        squares = ops.square(finite / ops.maximum(ops.max(finite), 1e-30))
        order = ops.argsort(squares)
        ranked = ops.take(squares, order)
        left = ops.flip(ops.cumsum(ops.flip(ranked)))
        shares = ops.take(ranked / ops.maximum(left, 1e-30), ops.argsort(order))
        return ops.reshape(ops.where(known, shares, float("inf")), units.shape)


@keras.saving.register_keras_serializable(package="kprune")
class ErdosRenyiKernel(Allocation):
    """Density in proportion to (sum of the shape's sides) / (their product).

    Small weights stay denser than large ones; no density goes above 1, and the
    group's sparsity is the one asked for. Evci et al., "Rigging the lottery" (2020).

    Example: the densities of a 4 x 4 and an 8 x 8 weight are as 8/16 to 16/64, so at sparsity
    0.7 they are 0.5 and 0.25: 8 of 16 and 16 of 64 weights stay, which is 24 of 80.

    >>> sparsities = kprune.ErdosRenyiKernel().sparsities([(4, 4), (8, 8)], 0.7)
    >>> [round(sparsity, 3) for sparsity in sparsities]
    [0.5, 0.75]
    """

    def sparsities(
        self, shapes: Sequence[Shape], sparsity: float | Tensor
    ) -> Sequence[float | Tensor]:
        sizes = [math.prod(shape) for shape in shapes]
        ratios = [sum(shape) / size for shape, size in zip(shapes, sizes)]
        kept = (1 - sparsity) * sum(sizes)
        # kept(scale) = sum(size * min(1, scale * ratio)) is concave and piecewise
        # linear, so its inverse is the largest of its pieces: with the weights of the
        # largest ratios full, the others share what is left in proportion.
        order = sorted(range(len(sizes)), key=lambda i: -ratios[i])
        scale = 0.0
        for full in range(len(order)):
            slope = sum(sizes[i] * ratios[i] for i in order[full:])
            piece = (kept - sum(sizes[i] for i in order[:full])) / slope
            scale = _maximum(scale, piece)
        return [1 - _minimum(scale * ratio, 1.0) for ratio in ratios]


def check_allocation(allocation):
    """Return `allocation` if it is one, else raise `TypeError` with what to pass."""
    if isinstance(allocation, Allocation):
        return allocation
    raise TypeError(
        "`allocation` must be a kprune allocation: Uniform(), Global(), LAMP(), "
        f"ErdosRenyiKernel(). Received: {allocation!r}"
    )


def _count(allocation, i, counts, shapes, sparsity, exact):
    known = [(s, allocation.sparsities(shapes, s)[i]) for s in exact]
    return units_to_prune(*counts[i], sparsity, allocation.sparsities(shapes, sparsity)[i], known)


def _of_all(n, most, sparsity, exact):
    return units_to_prune(n, most, sparsity, sparsity, [(s, s) for s in exact])


def _never_empty(scores):
    """Scores of which the highest, the first of them, can't be among the lowest of a group."""
    flat = ops.reshape(scores, (-1,))
    first = ops.arange(flat.shape[0]) == ops.cast(ops.argmax(flat), "int32")
    infinity = ops.full((), float("inf"), dtype=flat.dtype)
    return ops.reshape(ops.where(first, infinity, flat), scores.shape)


def _maximum(a, b):
    return max(a, b) if isinstance(b, float) else ops.maximum(a, b)


def _minimum(a, b):
    return min(a, b) if isinstance(a, float) else ops.minimum(a, b)
