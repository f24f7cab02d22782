"""The mask of a weight's scores at a sparsity."""

import numpy as np
from keras import ops

from kprune._system.type_aliases import Axes, Tensor
from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.exact_count import lowest_pruned
from kprune.pruning.patterns import Pattern, Unstructured
from kprune.pruning.schedules import check_sparsity


def compute_mask(
    scores: Tensor, sparsity: float, pattern: Pattern | None = None, axes: Axes = INPUT_OUTPUT
) -> Tensor:
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
