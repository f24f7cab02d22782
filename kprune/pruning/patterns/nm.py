"""N:M sparsity: at most n of every m consecutive input channels."""

import math
import numbers
from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Axes, Shape, Tensor
from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.patterns.matrix import (
    check_rank,
    edge_sizes,
    from_matrix,
    matrix_shape,
    to_matrix,
)
from kprune.pruning.patterns.pattern import Pattern

_PAIRWISE = 8  # From here on, comparing each pair of a group takes longer to compile than to sort.


@keras.saving.register_keras_serializable(package="kprune")
class NM(Pattern):
    """At most n of every m consecutive input channels are kept.

    The groups of m lie along the input-channel axis, the one TFLite stores last.
    Sparsity follows the schedule: at every update the pruned weights are the lowest
    among those that the finished pattern may prune (the m - n lowest of each group),
    so groups tighten one after the other, from the least important on, and the
    pattern is complete at sparsity 1 - n / m, the highest that it can have. A last,
    shorter group keeps n as well.

    Example: four input channels of one output channel.

    >>> scores = keras.ops.array([[4.0], [1.0], [3.0], [2.0]])
    >>> for sparsity in (0.25, 0.5):
    ...     mask = kprune.pruning.compute_mask(scores, sparsity, kprune.NM(2, 4))
    ...     print(keras.ops.convert_to_numpy(mask).astype(int).ravel().tolist())
    [1, 0, 1, 1]
    [1, 0, 1, 0]

    Mishra et al., "Accelerating sparse deep neural networks" (2021).

    Args:
        n: int >= 1, how many are kept,
        m: int > n, of how many.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, n: int, m: int) -> None:
        if not all(isinstance(x, numbers.Integral) for x in (n, m)) or not 1 <= n < m:
            raise ValueError(
                "`NM(n, m)` keeps n of every m: integers with 1 <= n < m, such as NM(2, 4). "
                f"Received: n={n!r}, m={m!r}"
            )
        self.n = int(n)
        self.m = int(m)

    def units(self, scores: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        scores = to_matrix(scores, axes)
        *lead, rows, columns = scores.shape
        groups = -(-rows // self.m)
        missing = groups * self.m - rows
        # What is missing from the last group counts as pruned already: lowest of all.
        padding = [(0, 0)] * len(lead) + [(0, missing), (0, 0)]
        padded = ops.pad(scores, padding, constant_values=-1.0) if missing else scores
        padded = ops.reshape(padded, (*lead, groups, self.m, columns))
        lowest = _ranks(padded, self.m) < self.m - self.n
        lowest = ops.reshape(lowest, (*lead, groups * self.m, columns))
        infinity = ops.full((), float("inf"), dtype=scores.dtype)
        return ops.where(lowest[..., :rows, :], scores, infinity)

    def expand(self, unit_mask: Tensor, shape: Shape, axes: Axes = INPUT_OUTPUT) -> Tensor:
        return from_matrix(unit_mask, axes)

    def count(self, shape: Shape, axes: Axes = INPUT_OUTPUT) -> tuple[int, int]:
        *lead, rows, columns = matrix_shape(shape, axes)
        most = sum(max(size - self.n, 0) for size in edge_sizes(rows, self.m))
        # It never reaches them all, as each group keeps n.
        return math.prod(shape), math.prod(lead) * columns * most

    def check(self, shape: Shape, axes: Axes, name: str) -> None:
        check_rank(self, shape, name)

    def check_sparsity(self, sparsity: float) -> None:
        """Raise `ValueError` for a sparsity that the pattern cannot have."""
        if sparsity > 1 - self.n / self.m + 1e-9:
            raise ValueError(
                f"{self} leaves {self.n} of every {self.m} weights: its sparsity is at most "
                f"{1 - self.n / self.m:g}. Received: sparsity={sparsity:g}"
            )

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "m": self.m}


def _ranks(scores, m):
    """How many of its group are lower, for each of m scores along the last axis but one."""
    if m > _PAIRWISE:
        # Of two that are equal the first is the lower one, here as below.
        return ops.argsort(ops.argsort(scores, axis=-2), axis=-2)
    members = [scores[..., i, :] for i in range(m)]
    ranks = [
        sum(
            ops.cast(other <= own if j < i else other < own, "int32")
            for j, other in enumerate(members)
            if j != i
        )
        for i, own in enumerate(members)
    ]
    return ops.stack(ranks, axis=-2)
