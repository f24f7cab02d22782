"""Zeros in blocks of input channels by output channels."""

import math
import numbers
from typing import Any

import keras
import numpy as np
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

    def __init__(self, shape: tuple[int, int], pooling: str = "AVG") -> None:
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

    def units(self, scores: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        scores = to_matrix(scores, axes)
        *lead, rows, columns = scores.shape
        r, c = self.shape
        grid = (-(-rows // r), -(-columns // c))
        padding = [(0, 0)] * len(lead) + [(0, grid[0] * r - rows), (0, grid[1] * c - columns)]
        if any(after for _, after in padding):
            scores = ops.pad(scores, padding)
        scores = ops.reshape(scores, (*lead, grid[0], r, grid[1], c))
        if self.pooling == "MAX":
            return ops.max(scores, axis=(-3, -1))
        sizes = np.outer(edge_sizes(rows, r), edge_sizes(columns, c))
        return ops.sum(scores, axis=(-3, -1)) / ops.convert_to_tensor(sizes, scores.dtype)

    def sizes(self, weight: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        whole = self if self.pooling == "AVG" else Block(self.shape)
        return super(Block, whole).sizes(weight, axes)

    def expand(self, unit_mask: Tensor, shape: Shape, axes: Axes = INPUT_OUTPUT) -> Tensor:
        rows, columns = matrix_shape(shape, axes)[-2:]
        mask = ops.repeat(ops.repeat(unit_mask, self.shape[0], axis=-2), self.shape[1], axis=-1)
        return from_matrix(mask[..., :rows, :columns], axes)

    def count(self, shape: Shape, axes: Axes = INPUT_OUTPUT) -> tuple[int, int]:
        *lead, rows, columns = matrix_shape(shape, axes)
        n = math.prod(lead) * -(-rows // self.shape[0]) * -(-columns // self.shape[1])
        return n, n - 1

    def check(self, shape: Shape, axes: Axes, name: str) -> None:
        check_rank(self, shape, name)

    def get_config(self) -> dict[str, Any]:
        return {"shape": self.shape, "pooling": self.pooling}
