"""Scores + pattern + sparsity -> mask, with an exact count and without a sort.

The k-th lowest score is found by bisection on its bit pattern: the bits of a float
that is not negative, read as an integer, are in the float's own order, so some thirty
passes that count the scores below a threshold settle it (sixteen for 16-bit floats),
whatever their distribution. Each pass is one comparison and one sum, which every
backend compiles and runs where the weights are; a 4096 x 4096 weight takes a
twentieth of the time of a top-k.
"""

import math

import keras
import numpy as np
from keras import ops

from kprune._keras.backend import cond, count_true, jit_on_jax, scalar, where, while_loop
from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.patterns import Unstructured
from kprune.pruning.schedules import check_sparsity

# The integer type of a float type's bits, and those of infinity.
_BITS = {
    "float32": ("int32", 0x7F800000),
    "bfloat16": ("int16", 0x7F80),
    "float16": ("int16", 0x7C00),
}


def compute_mask(scores, sparsity, pattern=None, axes=INPUT_OUTPUT):
    """Return the mask with `round(sparsity * n)` zeros, those of the lowest scores.

    Among equal scores the first in row-major order go. One is always kept.

    Example:

    >>> mask = kprune.pruning.compute_mask(keras.ops.array([3.0, 1.0, 2.0, 4.0]), 0.5)
    >>> keras.ops.convert_to_numpy(mask).tolist()
    [True, False, False, True]

    Args:
        scores: float array or tensor, >= 0: float32, bfloat16 or float16.
        sparsity: float in [0, 1).
        pattern: a pattern; `Unstructured()` by default. n counts its units.
        axes: (input axis, output axis) of the scores.

    Returns:
        Bool tensor of the shape of the scores, True = kept.

    Raises:
        ValueError: scores that are NaN or below 0, a sparsity out of [0, 1), or a
            pattern that the shape cannot have.
    """
    pattern = pattern or Unstructured()
    scores = ops.convert_to_tensor(scores)
    check_sparsity(sparsity)
    pattern.check(scores.shape, axes, "scores")
    smallest = ops.convert_to_numpy(ops.cast(ops.min(scores), "float32"))
    # A NaN anywhere makes the smallest NaN, and no comparison with NaN holds.
    if not smallest >= 0:
        raise ValueError(
            "Scores must be numbers of at least 0. Received: scores with "
            f"{'NaN' if np.isnan(smallest) else f'a lowest value of {smallest:g}'}"
        )
    n, most = pattern.count(scores.shape, axes)
    (mask,) = lowest_pruned([pattern.units(scores, axes)], min(round(sparsity * n), most))
    return pattern.expand(mask, scores.shape, axes)


@jit_on_jax
def lowest_pruned(scores, count):
    """Return masks that are False at the `count` lowest of all the scores together.

    Args:
        scores: list of float tensors, >= 0 and not NaN, of any shapes.
        count: int or int32 scalar tensor.

    Returns:
        List of bool tensors of the scores' shapes. Ties go by position, first
        tensor first.
    """
    scores, dtype = _as_sortable(scores)
    integer, infinity = _BITS[dtype]
    bits = [ops.reshape(ops.view(s, integer), (-1,)) for s in scores]
    below_low, low, exact = _bisect(bits, ops.cast(count, "int32"), infinity)
    threshold = ops.cast(low, integer)

    def clean():
        return [b >= threshold for b in bits]

    def break_ties():
        masks, left = [], ops.cast(count, "int32") - below_low
        for b in bits:
            tied = b == threshold
            pruned = ops.logical_and(tied, ops.cumsum(ops.cast(tied, "int32")) <= left)
            masks.append(ops.logical_and(b >= threshold, ops.logical_not(pruned)))
            left = left - count_true(tied)
        return masks

    masks = cond(exact, clean, break_ties)
    return [ops.reshape(mask, s.shape) for mask, s in zip(masks, scores)]


def _bisect(bits, count, infinity):
    """Find `low`: `count` values are below it, or it is the value that ties straddle.

    Returns `(number of values below low, low, whether that number is count)`.
    """
    total = sum(math.prod(b.shape) for b in bits)
    count = scalar(count)

    def search(low, high, below_low, below_high):
        return (high - low > 1) & (below_low != count) & (below_high != count)

    def halve(low, high, below_low, below_high):
        middle = low + (high - low) // 2
        below = scalar(sum(count_true(b < ops.cast(middle, b.dtype)) for b in bits))
        enough = below > count
        return (
            where(enough, low, middle),
            where(enough, middle, high),
            where(enough, below_low, below),
            where(enough, below, below_high),
        )

    start = tuple(scalar(x) for x in (0, infinity + 1, 0, total))
    low, high, below_low, below_high = while_loop(search, halve, start)
    at_high = below_high == count
    exact = at_high | (below_low == count)
    low = where(at_high & (below_low != count), high, low)
    return below_low, low, exact


def _as_sortable(scores):
    """The scores in one type whose bits `_BITS` knows, and that type's name."""
    dtypes = {keras.backend.standardize_dtype(s.dtype) for s in scores}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    if dtype not in _BITS:
        dtype = "float32"
    return [ops.cast(s, dtype) for s in scores], dtype
