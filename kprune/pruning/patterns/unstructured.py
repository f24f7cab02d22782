"""No pattern: single weights."""

import math

import keras
from keras import ops

from kprune._system.type_aliases import Axes, Shape, Tensor
from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.patterns.pattern import Pattern


@keras.saving.register_keras_serializable(package="kprune")
class Unstructured(Pattern):
    """Any single weight may be zero.

    Example:

    >>> scores = keras.ops.array([[1.0, 4.0], [3.0, 2.0]])
    >>> mask = kprune.pruning.compute_mask(scores, 0.5, kprune.Unstructured())
    >>> keras.ops.convert_to_numpy(mask).astype(int).tolist()
    [[0, 1], [1, 0]]
    """

    def units(self, scores: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        return scores

    def sizes(self, weight: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        return ops.abs(ops.cast(weight, "float32"))

    def expand(self, unit_mask: Tensor, shape: Shape, axes: Axes = INPUT_OUTPUT) -> Tensor:
        return unit_mask

    def count(self, shape: Shape, axes: Axes = INPUT_OUTPUT) -> tuple[int, int]:
        n = math.prod(shape)
        return n, n - 1
