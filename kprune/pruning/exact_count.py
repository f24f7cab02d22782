"""Exactly as many zeros as a sparsity says, without a sort.

The k-th lowest score is found by bisection on its bit pattern: the bits of a float
that is not negative, read as an integer, are in the float's own order, so some thirty
passes that count the scores below a threshold settle it (sixteen for 16-bit floats),
whatever their distribution. Each pass is one comparison and one sum, which every
backend compiles and runs where the weights are; a 4096 x 4096 weight takes a
twentieth of the time of a top-k.
"""

import math

import keras
from keras import ops

from kprune._keras.backend import cond, count_true, jit_on_jax, scalar, where, while_loop

# The integer type of a float type's bits, and those of infinity.
_BITS = {
    "float32": ("int32", 0x7F800000),
    "bfloat16": ("int16", 0x7F80),
    "float16": ("int16", 0x7C00),
}


def units_to_prune(n, most, sparsity, share, known):
    """Return how many of `n` units a sparsity prunes.

    Args:
        n: int.
        most: int, how many may go at the most.
        sparsity: float or float32 scalar tensor, that of the whole group.
        share: the same, that of these units.
        known: list of `(sparsity, share)`, floats: what users have named.

    Returns:
        An int where `sparsity` is a float, else an int32 scalar tensor.
    """
    if isinstance(sparsity, float):
        return min(round(share * n), most)
    # float32 cannot tell round(share * n) to the last weight above some eight
    # million, so the sparsities that users name are counted in Python.
    count = ops.cast(ops.round(share * n), "int32")
    for value, value_share in known:
        exact = ops.convert_to_tensor(min(round(value_share * n), most), "int32")
        count = ops.where(sparsity == ops.cast(value, "float32"), exact, count)
    return ops.minimum(count, most)


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
