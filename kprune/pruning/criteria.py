"""Which weights matter: scores, one a weight, of which the lowest are pruned."""

from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.configurable import Configurable

_SMALLEST = 1e-30


class Criterion(Configurable):
    """Base class: gives every weight a score >= 0; the lowest scores are pruned.

    Example:

    ```python
    class Squared(kprune.pruning.Criterion):
        def __call__(self, weight, gradient=None):
            return weight * weight
    ```
    """

    needs_gradient = False
    of_channels = False  # Whether it scores whole channels, and nothing else.
    of_activations = False  # Whether it scores activations on data in the place of weights.
    accumulates = False  # Whether it is an `AccumulatingCriterion`.
    of_squares = False  # Whether it accumulates a mean of squared gradients, as optimizers do.

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Score a weight.

        Args:
            weight: float tensor, the weight after the optimizer's update.
            gradient: tensor of the same shape, the gradient of this step; None
                unless the class sets `needs_gradient = True`.

        Returns:
            Float tensor of the weight's shape; no NaN, nothing below 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def combine(self, total: Tensor) -> Tensor:
        """Turn the sum of the scores of a channel's weights into the channel's score."""
        return total


def above_zeros(weight, scores):
    """Return float32 scores >= 0 with which a weight that is zero goes before any other.

    Else one that is pruned would come back, as a zero, for one whose gradient happens to be zero.
    """
    return ops.where(weight == 0, 0.0, ops.maximum(scores, _SMALLEST))


@keras.saving.register_keras_serializable(package="kprune")
class Magnitude(Criterion):
    """The weight's absolute value (Han et al., 2015).

    Example:

    >>> weight = keras.ops.array([[0.5, -0.25], [0.125, -1.0]])
    >>> keras.ops.convert_to_numpy(kprune.Magnitude()(weight)).tolist()
    [[0.5, 0.25], [0.125, 1.0]]

    so that `kprune.Pruning(0.5, criterion=kprune.Magnitude())` leaves [[0.5, 0], [0, -1.0]].
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        return ops.abs(weight)


@keras.saving.register_keras_serializable(package="kprune")
class Importance(Criterion):
    """The weight's share of the sum of all absolute values of its layer's weight.

    Within one weight the order is that of `Magnitude`; with `Global()` layers of small weights
    count as much as those of large ones.

    Example:

    >>> weight = keras.ops.array([[0.5, -0.25], [0.25, -1.0]])
    >>> keras.ops.convert_to_numpy(kprune.pruning.Importance()(weight)).tolist()
    [[0.25, 0.125], [0.125, 0.5]]

    `kprune.Pruning(0.9, criterion=kprune.pruning.Importance(), allocation=kprune.Global())`
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        size = ops.abs(ops.cast(weight, "float32"))
        return size / ops.maximum(ops.sum(size), _SMALLEST)


@keras.saving.register_keras_serializable(package="kprune")
class L2Norm(Criterion):
    """The weight squared; a channel's score is the Euclidean norm of its weights.

    For single weights the order is that of `Magnitude`, whose score of a channel is the
    sum of absolute values (Li et al., "Pruning filters for efficient convnets", 2017).

    Example: a channel with the weights [3, -4] has the score 5; one with [7, 0] has 7.
    With `Magnitude` both have 7.

    >>> l2 = kprune.L2Norm()
    >>> squares = l2(keras.ops.array([[3.0, 7.0], [-4.0, 0.0]]))
    >>> keras.ops.convert_to_numpy(squares).tolist()
    [[9.0, 49.0], [16.0, 0.0]]
    >>> keras.ops.convert_to_numpy(l2.combine(keras.ops.sum(squares, axis=0))).tolist()
    [5.0, 7.0]

    `kprune.prune_channels(model, flops=0.5, criterion=kprune.L2Norm())` ranks channels by it.
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        return ops.square(weight)

    def combine(self, total: Tensor) -> Tensor:
        return ops.sqrt(total)


@keras.saving.register_keras_serializable(package="kprune")
class Taylor(Criterion):
    """|weight x gradient|, how much the loss would change to first order.

    The gradient is that of the step at which masks change (of its last batch under
    gradient accumulation), so no second backward pass is made. Molchanov et al.,
    "Importance estimation for neural network pruning" (2019); SNIP (Lee et al., 2019)
    at the first step.

    Example: a large weight that hardly changes the loss goes before a small one that does.

    >>> weight = keras.ops.array([0.5, -0.25, 4.0, 1.0])
    >>> gradient = keras.ops.array([1.0, 8.0, -0.0625, 0.125])
    >>> keras.ops.convert_to_numpy(kprune.Taylor()(weight, gradient)).tolist()
    [0.5, 2.0, 0.25, 0.125]

    At sparsity 0.5 `kprune.Pruning(0.5, criterion=kprune.Taylor())` keeps the first two;
    `Magnitude` would keep the last two.
    """

    needs_gradient = True

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        weight = ops.cast(weight, "float32")
        return above_zeros(weight, ops.abs(weight * ops.cast(gradient, "float32")))


@keras.saving.register_keras_serializable(package="kprune")
class Random(Criterion):
    """Random scores, the control that any criterion must beat.

    What is pruned stays pruned as sparsity rises: each weight keeps its score, whatever its
    value, and a zero has the score 0.

    Example: of eight weights, which differ a hundredfold, six are pruned at random.

    >>> weight = keras.ops.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    >>> scores = kprune.Random(seed=1)(weight)
    >>> mask = kprune.pruning.compute_mask(scores, 0.75)
    >>> int(keras.ops.sum(mask))
    2
    >>> again = kprune.Random(seed=1)(weight / 128)
    >>> bool(keras.ops.all(scores == again))
    True

    Args:
        seed: int.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        scores = keras.random.uniform(ops.shape(weight), seed=self.seed, dtype="float32")
        return ops.where(weight == 0, 0.0, scores + 1e-3)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}
