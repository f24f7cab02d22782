"""Weights that come back: at each update of the masks some others take the place of the lowest."""

import math
import numbers
from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.configurable import Configurable


class Regrowth(Configurable):
    """Base class: a share of the weights that are kept is exchanged at each update of the masks.

    The lowest of them by the criterion go, and as many of the others come, those of the highest
    `scores`, with the value that they have: 0, and no moments in the optimizer, for those that were
    masked. So the sparsity is the schedule's, with regrowth and without. The share falls along a
    cosine to 0 at the schedule's end, from where the masks stay.

    Args:
        fraction: float in (0, 1), the share that is exchanged at the first update.

    Raises:
        ValueError: `fraction` is out of its range.
    """

    needs_gradient = False
    fraction: float

    def __init__(self, fraction: float = 0.3) -> None:
        if not isinstance(fraction, numbers.Real) or not 0 < fraction < 1:
            raise ValueError(
                f"`fraction` must be a number between 0 and 1. Received: fraction={fraction!r}"
            )
        self.fraction = float(fraction)

    def scores(
        self, weight: Tensor, gradient: Tensor | None = None, step: Tensor | None = None
    ) -> Tensor:
        """Score the weights that may come.

        Args:
            weight: float tensor, the weight after the optimizer's update.
            gradient: tensor of its shape; None unless the class sets `needs_gradient = True`.
            step: integer scalar tensor, the optimizer's.

        Returns:
            Float tensor of the weight's shape, nothing below 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `scores`.")

    def share(self, step: Tensor, schedule: Any) -> Tensor:
        """Return the share that is exchanged at a step, a float32 scalar tensor."""
        length = max(schedule.end_step - schedule.begin_step, 1)
        done = (ops.cast(step, "float32") - schedule.begin_step) / length
        return self.fraction * 0.5 * (1 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))

    def get_config(self) -> dict[str, Any]:
        return {"fraction": self.fraction}


@keras.saving.register_keras_serializable(package="kprune")
class RigL(Regrowth):
    """Those come whose gradient is the largest: the loss would use them first.

    Evci et al., "Rigging the lottery: making all tickets winners" (2020), at a constant sparsity;
    with one that rises, GraNet (Liu et al., "Sparse training via boosting pruning plasticity",
    2021). The gradient is that of the step at which masks change, so no second one is computed.

    Example: of four weights two stay, of which one is exchanged: the 3 for that of the gradient -5.

    >>> kernel = keras.Variable([[4.0, 3.0], [1.0, 2.0]])
    >>> optimizer = kprune.PruningOptimizer(
    ...     keras.optimizers.SGD(0.0),
    ...     kprune.ConstantSparsity(0.5, 0, end_step=1000),
    ...     regrowth=kprune.pruning.RigL(0.5),
    ... )
    >>> optimizer.apply([keras.ops.array([[0.0, 1.0], [-5.0, 2.0]])], [kernel])
    >>> keras.ops.convert_to_numpy(kernel).tolist()
    [[4.0, 0.0], [1.0, 0.0]]

    In `fit`, RigL and GraNet:

    ```python
    schedule = kprune.ConstantSparsity(0.9, begin_step=0, end_step=7500, frequency=100)
    rigl = kprune.Pruning(
        schedule=schedule, regrowth=kprune.pruning.RigL(), allocation=kprune.ErdosRenyiKernel()
    )
    granet = kprune.Pruning(0.9, regrowth=kprune.pruning.RigL())
    ```

    Args:
        fraction: float in (0, 1), the share that is exchanged at the first update.

    Raises:
        ValueError: as `Regrowth`.
    """

    needs_gradient = True

    def scores(
        self, weight: Tensor, gradient: Tensor | None = None, step: Tensor | None = None
    ) -> Tensor:
        return ops.abs(ops.cast(gradient, weight.dtype))


@keras.saving.register_keras_serializable(package="kprune")
class SET(Regrowth):
    """Those that come are drawn at random, anew at each update: RigL's control.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science" (2018), where the share that is exchanged is the same
    all along; here it falls as that of any `Regrowth`. No gradient is needed.

    Example: the scores of one step are those of it whenever they are asked for.

    >>> weight = keras.ops.zeros((4, 4))
    >>> one, again, other = (kprune.pruning.SET().scores(weight, None, i) for i in (1, 1, 2))
    >>> bool(keras.ops.all(one == again)), bool(keras.ops.any(one == other))
    (True, False)

    In `fit`:

    ```python
    schedule = kprune.ConstantSparsity(0.9, begin_step=0, end_step=7500, frequency=100)
    kprune.Pruning(
        schedule=schedule, regrowth=kprune.pruning.SET(), allocation=kprune.ErdosRenyiKernel()
    )
    ```

    Args:
        fraction: float in (0, 1), the share that is exchanged at the first update.
        seed: int.

    Raises:
        ValueError: as `Regrowth`.
    """

    def __init__(self, fraction: float = 0.3, seed: int = 0) -> None:
        super().__init__(fraction)
        self.seed = int(seed)

    def scores(
        self, weight: Tensor, gradient: Tensor | None = None, step: Tensor | None = None
    ) -> Tensor:
        size = math.prod(weight.shape)
        start = ops.cast(0 if step is None else step, "int32")
        first = _mixed(start + _signed(self.seed * 0x9E3779B1 + size * 0x85EBCA77))
        found = _mixed(ops.arange(size, dtype="int32") + first)
        low_bits = ops.cast(ops.bitwise_and(found, 0x7FFFFF), "float32")
        return ops.reshape(low_bits / 0x800000, weight.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def _signed(number):
    """The int32 of the same lowest 32 bits as an int."""
    return (number + 2**31) % 2**32 - 2**31


def _mixed(x):
    """Bits of int32s, each of which depends on all: MurmurHash3's `fmix32` (Appleby, 2011).

    Randomness without a state, which the branches of a compiled step would have to hand on.
    """
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))
    x = x * _signed(0x85EBCA6B)
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 13), 0x7FFFF))
    x = x * _signed(0xC2B2AE35)
    return ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))
