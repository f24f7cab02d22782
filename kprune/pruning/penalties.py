"""Penalties: what is small is pulled towards zero in every step, before it is pruned."""

import numbers
from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.configurable import Configurable

_SMALLEST = 1e-30


class Penalty(Configurable):
    """Base class: after each step of the optimizer, weights are multiplied by factors in [0, 1].

    It acts on the units of the pattern: single weights, blocks or channels, each by its size, the
    root of the mean of its squares. Like decoupled weight decay (Loshchilov and Hutter, 2019) it
    stays out of the loss and of the optimizer's moments: its strength is multiplied by the learning
    rate alone, whatever the optimizer.

    The largest unit of each weight is left alone, so that no layer is emptied.

    It ends with the schedule: what is left then grows to its full size again. Where no
    sparsity is asked for, it goes on, and what it has brought to zero stays zero in the end.

    Example: weights halve in every step of a learning rate of 1.

    >>> class Half(kprune.pruning.Penalty):
    ...     def factors(self, sizes, amount):
    ...         return keras.ops.ones_like(sizes) * 0.5**amount
    >>> keras.ops.convert_to_numpy(Half(1.0).factors(keras.ops.ones(2), 1.0)).tolist()
    [0.5, 0.5]

    Args:
        strength: float > 0.
        ramp: bool, whether the strength rises along a line, from 0 at the schedule's begin to
            all at its end; else all of it acts from the first step.

    Raises:
        ValueError: `strength` is not above 0.
        TypeError: `ramp` is not a bool.
    """

    of_pruned = False  # Whether it acts on what the finished mask prunes alone, at updates.

    def __init__(self, strength: float, ramp: bool = False) -> None:
        real = isinstance(strength, numbers.Real) and not isinstance(strength, bool)
        if not real or not 0 < strength < float("inf"):
            raise ValueError(
                f"`strength` must be a number above 0. Received: strength={strength!r}"
            )
        if not isinstance(ramp, bool):
            raise TypeError(f"`ramp` must be True or False. Received: ramp={ramp!r}")
        self.strength, self.ramp = float(strength), ramp

    def factors(self, sizes: Tensor, amount: Tensor) -> Tensor:
        """Return what each unit's weights are multiplied by, in [0, 1].

        Args:
            sizes: float32 tensor, the units' sizes.
            amount: float32 scalar tensor, the learning rate x the strength at this step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `factors`.")

    def of_units(self, sizes: Tensor, amount: Tensor) -> Tensor:
        """Return `factors`, but 1 for the largest unit, so that no weight is emptied."""
        return ops.where(sizes >= ops.max(sizes), 1.0, self.factors(sizes, amount))

    def share(self, step: Tensor, schedule: Any) -> Tensor:
        """Return how much of the strength acts at a step, a float32 scalar tensor in [0, 1]."""
        step = ops.cast(step, "float32")
        ends = schedule.end_step >= 0
        share = ops.ones_like(step)
        if self.ramp and ends:
            length = max(schedule.end_step - schedule.begin_step, 1)
            share = ops.clip((step - schedule.begin_step) / length, 0.0, 1.0)
        if ends and schedule.final_sparsity != 0:
            share = ops.where(step <= schedule.end_step, share, 0.0)
        return share

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength, "ramp": self.ramp}


@keras.saving.register_keras_serializable(package="kprune")
class Lasso(Penalty):
    """Proximal steps of the L1 norm; with blocks or channels, of the group lasso.

    Every unit becomes smaller by learning rate x strength; those that had less are exactly zero.
    Tibshirani, "Regression shrinkage and selection via the lasso" (1996); Yuan and Lin, "Model
    selection and estimation in regression with grouped variables" (2006); for filters Wen et al.,
    "Learning structured sparsity in deep neural networks" (2016).

    Example: at a learning rate of 0.5 a strength of 0.5 takes 0.25 off every weight.

    >>> kernel = keras.Variable([[1.0, -0.5], [0.125, -0.25]])
    >>> optimizer = kprune.PruningOptimizer(
    ...     keras.optimizers.SGD(0.5),
    ...     kprune.ConstantSparsity(0.0, 0),
    ...     penalty=kprune.pruning.Lasso(0.5),
    ... )
    >>> optimizer.apply([keras.ops.zeros((2, 2))], [kernel])
    >>> keras.ops.convert_to_numpy(kernel).tolist()
    [[1.0, -0.25], [0.0, 0.0]]

    In `fit`, before pruning and alone:

    ```python
    kprune.Pruning(0.9, penalty=kprune.pruning.Lasso(0.02))
    kprune.Pruning(penalty=kprune.pruning.Lasso(0.1))
    kprune.Pruning(0.5, pattern=kprune.Channels(), penalty=kprune.pruning.Lasso(0.02))
    ```

    Args:
        strength: float > 0, as in `Penalty`.
        ramp: bool, as in `Penalty`.

    Raises:
        ValueError: as `Penalty`.
        TypeError: as `Penalty`.
    """

    def factors(self, sizes: Tensor, amount: Tensor) -> Tensor:
        return ops.maximum(1.0 - amount / ops.maximum(sizes, _SMALLEST), 0.0)


@keras.saving.register_keras_serializable(package="kprune")
class DensityPenalty(Penalty):
    """A penalty on the number of weights that are not near zero: it leaves large ones alone.

    The density is counted smoothly, as the sum of 1 - exp(-size / width), so that its slope
    pulls at what is within a few widths of zero, and at nothing else (Bradley and Mangasarian,
    "Feature selection via concave minimization and support vector machines", 1998). A reweighted
    `Lasso`: near zero it is that of the same strength.

    Example: at a learning rate of 1, 0.25 is taken off a weight that is small, and next to nothing
    off a large one.

    >>> factors = kprune.pruning.DensityPenalty(0.25, width=0.1).factors
    >>> sizes = keras.ops.array([0.01, 0.3, 1.0])
    >>> [round(float(size), 3) for size in sizes * factors(sizes, 0.25)]
    [0.0, 0.288, 1.0]

    `kprune.Pruning(0.9, penalty=kprune.pruning.DensityPenalty(0.1))`

    Args:
        strength: float > 0, as in `Penalty`.
        width: float > 0, the size at which a unit counts as 63% dense.
        ramp: bool, as in `Penalty`.

    Raises:
        ValueError: as `Penalty`; `width` is not above 0.
        TypeError: as `Penalty`.
    """

    width: float

    def __init__(self, strength: float, width: float = 0.05, ramp: bool = True) -> None:
        super().__init__(strength, ramp)
        if not isinstance(width, numbers.Real) or not width > 0:
            raise ValueError(f"`width` must be a number above 0. Received: width={width!r}")
        self.width = float(width)

    def factors(self, sizes: Tensor, amount: Tensor) -> Tensor:
        amount = amount * ops.exp(-sizes / self.width)
        return ops.maximum(1.0 - amount / ops.maximum(sizes, _SMALLEST), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="kprune")
class GrowingRegularization(Penalty):
    """Weight decay that grows, on those weights alone that are to be pruned in the end.

    What will go fades out, and what stays takes over before the masks do. At each update of the
    masks those are chosen that the finished mask would prune; they lose at once what the decay
    comes to until the next update, by the `frequency` of the schedule (one step, if a schedule of
    your own has none). Wang et al., "Neural pruning via growing regularization" (2021),
    where they are chosen once, and the masks follow when the decay has done its work: for that give
    a late `begin`.

    Example: two of four weights are to be pruned; half of the strength acts in the middle of
    the schedule, exp(-0.5) = 0.61.

    >>> kernel = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    >>> optimizer = kprune.PruningOptimizer(
    ...     keras.optimizers.SGD(1.0),
    ...     kprune.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=2, power=1, frequency=1),
    ...     penalty=kprune.pruning.GrowingRegularization(1.0),
    ... )
    >>> optimizer.apply([keras.ops.zeros((2, 2))], [kernel])
    >>> [[round(w, 2) for w in row] for row in keras.ops.convert_to_numpy(kernel).tolist()]
    [[0.0, 1.21], [3.0, 4.0]]

    `kprune.Pruning(0.9, penalty=kprune.pruning.GrowingRegularization(1.0))`

    Args:
        strength: float > 0, the decay at the schedule's end, to which it rises from 0 at its begin.

    Raises:
        ValueError: as `Penalty`; in `Pruning`, no final sparsity is known.
    """

    of_pruned = True

    def __init__(self, strength: float) -> None:
        super().__init__(strength, ramp=True)

    def factors(self, sizes: Tensor, amount: Tensor) -> Tensor:
        return ops.ones_like(sizes) * ops.exp(-amount)

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}
