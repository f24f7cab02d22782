"""Which shapes of zeros are allowed.

A pattern turns the scores of a weight's entries into scores of *units*, the things
that are kept or pruned as one, says how many units a sparsity means, and spreads a
mask over units back over the entries. Patterns with a direction see the weight in
the layout (..., input channels, output channels); `axes` says where those two axes
lie in the weight as it is stored.
"""

import math
import numbers

import keras
import numpy as np
from keras import ops

from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.configurable import Configurable


class Pattern(Configurable):
    """Base class of the patterns; use `Unstructured`, `Block` or `NM`."""

    def units(self, scores, axes=INPUT_OUTPUT):
        """Return the scores of the units, a float tensor of any shape."""
        raise NotImplementedError

    def expand(self, unit_mask, shape, axes=INPUT_OUTPUT):
        """Return the mask of a weight of `shape` from the mask of its units."""
        raise NotImplementedError

    def count(self, shape, axes=INPUT_OUTPUT):
        """Return `(n, most)`: a sparsity s prunes round(s * n) units, `most` at the most.

        One unit always stays: a kernel without any weight would cut what it feeds off from
        the inputs.
        """
        raise NotImplementedError

    def check(self, shape, axes, name):
        """Raise `ValueError` if a weight of this shape cannot have the pattern."""

    def groups(self, group, model, before=()):
        """Return the `selection.Group`s that prune a group's weights with this pattern.

        Args:
            group: a `selection.Group`.
            model: the model, or None where only the variables are known.
            before: the `selection.Group`s of the settings before this one.
        """
        return [group]

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash(type(self))


@keras.saving.register_keras_serializable(package="kprune")
class Unstructured(Pattern):
    """Any single weight may be zero.

    Example:

    >>> scores = keras.ops.array([[1.0, 4.0], [3.0, 2.0]])
    >>> mask = kprune.pruning.compute_mask(scores, 0.5, kprune.Unstructured())
    >>> keras.ops.convert_to_numpy(mask).astype(int).tolist()
    [[0, 1], [1, 0]]
    """

    def units(self, scores, axes=INPUT_OUTPUT):
        return scores

    def expand(self, unit_mask, shape, axes=INPUT_OUTPUT):
        return unit_mask

    def count(self, shape, axes=INPUT_OUTPUT):
        n = math.prod(shape)
        return n, n - 1


@keras.saving.register_keras_serializable(package="kprune")
class Block(Pattern):
    """Zeros come in blocks of r input channels by c output channels.

    A block's score is the average or the largest of its entries' scores. Rank-2
    weights are one matrix; a convolution kernel is one matrix a kernel position.
    Blocks start at the matrix's first row and column; those at its far edge may be
    smaller, and their average is over the entries they have.

    LiteRT runs `Dense` layers with `Block((4, 1))` faster than dense ones.

    Example: of four (2, 1) blocks the two with the lowest average go.

    >>> scores = keras.ops.array([[1.0, 5.0], [2.0, 6.0], [9.0, 0.0], [9.0, 0.0]])
    >>> mask = kprune.pruning.compute_mask(scores, 0.5, kprune.Block((2, 1)))
    >>> print(keras.ops.convert_to_numpy(mask).astype(int))
    [[0 1]
     [0 1]
     [1 0]
     [1 0]]

    Args:
        shape: (r, c), ints >= 1.
        pooling: "AVG" or "MAX", TFMOT's `block_pooling_type`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, shape, pooling="AVG"):
        if (
            not isinstance(shape, (tuple, list))
            or len(shape) != 2
            or not all(isinstance(side, numbers.Integral) and side >= 1 for side in shape)
        ):
            raise ValueError(
                "`shape` must be two positive integers, (input channels, output channels), "
                f"such as (4, 1). Received: shape={shape!r}"
            )
        if pooling not in ("AVG", "MAX"):
            raise ValueError(f'`pooling` must be "AVG" or "MAX". Received: pooling={pooling!r}')
        self.shape = (int(shape[0]), int(shape[1]))
        self.pooling = pooling

    def units(self, scores, axes=INPUT_OUTPUT):
        scores = _to_matrix(scores, axes)
        *lead, rows, columns = scores.shape
        r, c = self.shape
        grid = (-(-rows // r), -(-columns // c))
        padding = [(0, 0)] * len(lead) + [(0, grid[0] * r - rows), (0, grid[1] * c - columns)]
        if any(after for _, after in padding):
            scores = ops.pad(scores, padding)
        scores = ops.reshape(scores, (*lead, grid[0], r, grid[1], c))
        if self.pooling == "MAX":
            return ops.max(scores, axis=(-3, -1))
        sizes = np.outer(_edge_sizes(rows, r), _edge_sizes(columns, c))
        return ops.sum(scores, axis=(-3, -1)) / ops.convert_to_tensor(sizes, scores.dtype)

    def expand(self, unit_mask, shape, axes=INPUT_OUTPUT):
        matrix_shape = _matrix_shape(shape, axes)
        mask = ops.repeat(ops.repeat(unit_mask, self.shape[0], axis=-2), self.shape[1], axis=-1)
        return _from_matrix(mask[..., : matrix_shape[-2], : matrix_shape[-1]], axes)

    def count(self, shape, axes=INPUT_OUTPUT):
        *lead, rows, columns = _matrix_shape(shape, axes)
        n = math.prod(lead) * -(-rows // self.shape[0]) * -(-columns // self.shape[1])
        return n, n - 1

    def check(self, shape, axes, name):
        _check_rank(self, shape, name)

    def get_config(self):
        return {"shape": self.shape, "pooling": self.pooling}


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

    def __init__(self, n, m):
        if not all(isinstance(x, numbers.Integral) for x in (n, m)) or not 1 <= n < m:
            raise ValueError(
                "`NM(n, m)` keeps n of every m: integers with 1 <= n < m, such as NM(2, 4). "
                f"Received: n={n!r}, m={m!r}"
            )
        self.n = int(n)
        self.m = int(m)

    def units(self, scores, axes=INPUT_OUTPUT):
        scores = _to_matrix(scores, axes)
        *lead, rows, columns = scores.shape
        groups = -(-rows // self.m)
        missing = groups * self.m - rows
        # What is missing from the last group counts as pruned already: lowest of all.
        padding = [(0, 0)] * len(lead) + [(0, missing), (0, 0)]
        padded = ops.pad(scores, padding, constant_values=-1.0) if missing else scores
        padded = ops.reshape(padded, (*lead, groups, self.m, columns))
        members = [padded[..., i, :] for i in range(self.m)]
        lowest = [
            sum(
                ops.cast(other <= own if j < i else other < own, "int32")
                for j, other in enumerate(members)
                if j != i
            )
            < self.m - self.n
            for i, own in enumerate(members)
        ]
        lowest = ops.reshape(ops.stack(lowest, axis=-2), (*lead, groups * self.m, columns))
        infinity = ops.full((), float("inf"), dtype=scores.dtype)
        return ops.where(lowest[..., :rows, :], scores, infinity)

    def expand(self, unit_mask, shape, axes=INPUT_OUTPUT):
        return _from_matrix(unit_mask, axes)

    def count(self, shape, axes=INPUT_OUTPUT):
        *lead, rows, columns = _matrix_shape(shape, axes)
        most = sum(max(size - self.n, 0) for size in _edge_sizes(rows, self.m))
        # It never reaches them all, as each group keeps n.
        return math.prod(shape), math.prod(lead) * columns * most

    def check(self, shape, axes, name):
        _check_rank(self, shape, name)

    def check_sparsity(self, sparsity):
        """Raise `ValueError` for a sparsity that the pattern cannot have."""
        if sparsity > 1 - self.n / self.m + 1e-9:
            raise ValueError(
                f"{self} leaves {self.n} of every {self.m} weights: its sparsity is at most "
                f"{1 - self.n / self.m:g}. Received: sparsity={sparsity:g}"
            )

    def get_config(self):
        return {"n": self.n, "m": self.m}


def check_pattern(pattern):
    """Return `pattern` if it is one, else raise `TypeError` with what to pass."""
    if isinstance(pattern, Pattern):
        return pattern
    raise TypeError(
        "`pattern` must be a kprune pattern: Unstructured(), Block((4, 1)), NM(2, 4). "
        f"Received: {pattern!r}"
    )


def _edge_sizes(length, side):
    """Sizes of the blocks that cover `length`: all `side` but perhaps the last."""
    return [min(side, length - start) for start in range(0, length, side)]


def _to_matrix(tensor, axes):
    return tensor if axes == INPUT_OUTPUT else ops.moveaxis(tensor, axes, INPUT_OUTPUT)


def _from_matrix(tensor, axes):
    return tensor if axes == INPUT_OUTPUT else ops.moveaxis(tensor, INPUT_OUTPUT, axes)


def _matrix_shape(shape, axes):
    rank = len(shape)
    axes = [axis % rank for axis in axes]
    return (*(n for i, n in enumerate(shape) if i not in axes), *(shape[i] for i in axes))


def _check_rank(pattern, shape, name):
    if len(shape) < 2:
        raise ValueError(
            f"{pattern} needs a weight with input and output channels (rank 2 or more). "
            f"Received: {name} of shape {tuple(shape)}"
        )
