"""Criteria that follow the gradients of every step, and not only of those that change masks."""

from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.criteria import Criterion, above_zeros


class AccumulatingCriterion(Criterion):
    """Base class: scores by what has been accumulated, one float32 a weight, in all steps so far.

    What is accumulated is a part of the `PruningOptimizer`'s state, and goes with it into
    `.keras` and `.weights.h5` files. A weight that is zero has the score 0, so that what is
    pruned stays pruned.

    Without accumulated values the score is that of the one gradient, as `prune_channels` takes it
    for each batch of its data.

    Example: the largest gradient of all steps.

    >>> class LargestGradient(kprune.pruning.AccumulatingCriterion):
    ...     def accumulate(self, accumulated, weight, gradient):
    ...         return keras.ops.maximum(accumulated, keras.ops.abs(gradient))
    ...     def score(self, weight, accumulated):
    ...         return accumulated
    >>> scores = LargestGradient()(keras.ops.array([1.0, 0.0]), keras.ops.array([-2.0, 3.0]))
    >>> keras.ops.convert_to_numpy(scores).tolist()
    [2.0, 0.0]
    """

    needs_gradient = True
    accumulates = True

    def accumulate(self, accumulated: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return what is accumulated after a step.

        Args:
            accumulated: float32 tensor of the weight's shape, what was before; zeros at first.
            weight: float32 tensor, the weight that the gradient was computed at.
            gradient: float32 tensor, finite; that of masked weights, too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `accumulate`.")

    def score(self, weight: Tensor, accumulated: Tensor) -> Tensor:
        """Return the scores, a float32 tensor of the weight's shape; no NaN, nothing below 0."""
        raise NotImplementedError(f"{type(self).__name__} must define `score`.")

    def __call__(
        self, weight: Tensor, gradient: Tensor | None = None, accumulated: Tensor | None = None
    ) -> Tensor:
        weight = ops.cast(weight, "float32")
        if accumulated is None:
            gradient = ops.cast(gradient, "float32")
            accumulated = self.accumulate(ops.zeros_like(weight), weight, gradient)
        return above_zeros(weight, self.score(weight, accumulated))


@keras.saving.register_keras_serializable(package="kprune")
class Sensitivity(AccumulatingCriterion):
    """The weight's share of its layer's |gradient|, summed over all steps.

    Weights that the loss has asked to move stay; those that it never cared for go. As with
    `Importance`, shares of layers are comparable with `Global()`.

    Example: two steps' gradients, of which the sum is [[1, 3], [2, 2]].

    >>> criterion = kprune.pruning.Sensitivity()
    >>> weight, accumulated = keras.ops.ones((2, 2)), keras.ops.zeros((2, 2))
    >>> for gradient in ([[1.0, -1.0], [0.0, 1.0]], [[0.0, 2.0], [2.0, -1.0]]):
    ...     accumulated = criterion.accumulate(accumulated, weight, keras.ops.array(gradient))
    >>> keras.ops.convert_to_numpy(criterion(weight, None, accumulated)).tolist()
    [[0.125, 0.375], [0.25, 0.25]]

    `kprune.Pruning(0.9, criterion=kprune.pruning.Sensitivity())`
    """

    def accumulate(self, accumulated: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return accumulated + ops.abs(gradient)

    def score(self, weight: Tensor, accumulated: Tensor) -> Tensor:
        return accumulated / ops.maximum(ops.sum(accumulated), 1e-30)


@keras.saving.register_keras_serializable(package="kprune")
class Movement(AccumulatingCriterion):
    """How far training has moved the weight away from zero: -Σ weight x gradient.

    For fine-tuning, where the weights' sizes are those of another task: what shrinks goes first,
    large or not. Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning" (2020), where
    masked weights go on learning unseen; here they stay zero.

    Scores are that sum in the same order, above 0: those of weights that moved towards zero are
    in (0, 1), those of the others above 1. Of a block or channel, whose weights' scores are summed,
    those that moved away from zero decide.

    Example: a large weight that shrinks goes before a small one that grows.

    >>> weight = keras.ops.array([4.0, 0.5, -0.25])
    >>> gradient = keras.ops.array([1.0, -1.0, 2.0])
    >>> scores = keras.ops.convert_to_numpy(kprune.pruning.Movement()(weight, gradient))
    >>> scores.argsort().tolist()
    [0, 1, 2]

    `kprune.Pruning(0.9, criterion=kprune.pruning.Movement())`
    """

    _FINEST = 1e18  # 1 / the smallest movement that is told from none.

    def accumulate(self, accumulated: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return accumulated - weight * gradient

    def score(self, weight: Tensor, accumulated: Tensor) -> Tensor:
        # Adding the lowest would round small differences away; these keep all digits.
        size = 1 + self._FINEST * ops.abs(accumulated)
        return ops.where(accumulated < 0, 1 / size, size)


@keras.saving.register_keras_serializable(package="kprune")
class Fisher(AccumulatingCriterion):
    """½ weight² x the running mean of gradient²: how much the loss would rise, to second order.

    Optimal Brain Damage (LeCun et al., 1989) with the diagonal of the empirical Fisher matrix in
    the Hessian's place (Theis et al., "Faster gaze prediction with dense networks and Fisher
    pruning", 2018). Where the optimizer has such a mean already, as Adam, AdamW, Nadam and
    RMSprop do, it is used, and nothing is accumulated besides.

    Example:

    >>> weight = keras.ops.array([1.0, 2.0, 0.5])
    >>> accumulated = keras.ops.array([2.0, 1.0, 4.0])
    >>> scores = kprune.pruning.Fisher()(weight, None, accumulated)
    >>> keras.ops.convert_to_numpy(scores).tolist()
    [1.0, 2.0, 0.5]

    `kprune.Pruning(0.9, criterion=kprune.pruning.Fisher())`

    Args:
        decay: float in [0, 1), how much of the mean stays in each step; where it is not the
            optimizer's own.

    Raises:
        ValueError: `decay` is out of its range.
    """

    of_squares = True

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1). Received: decay={decay!r}")
        self.decay = float(decay)

    def accumulate(self, accumulated: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return accumulated + (1 - self.decay) * (ops.square(gradient) - accumulated)

    def score(self, weight: Tensor, accumulated: Tensor) -> Tensor:
        return 0.5 * ops.square(weight) * accumulated

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}
