"""A sparsity that follows what training says of it, instead of the step."""

import numbers
from typing import Any, Self

import keras
from keras import ops

from kprune._keras import backend
from kprune._system.type_aliases import Tensor
from kprune.pruning.schedules import PruningSchedule, check_sparsity

SMALLEST_STEP = 0.02  # Of the weights left: less is not worth an epoch.
_POWER = 3  # As of `PolynomialDecay`.


@keras.saving.register_keras_serializable(package="kprune")
class Adaptive(PruningSchedule):
    """As sparse as a metric allows: raised while it holds, taken back where it does not.

    After each epoch of `fit`, `kprune.Pruning` looks at the metric. While it is within `max_drop`
    of its best value so far, the weights are kept and a further share of those that are left is
    pruned, along a cubic in the first half of the next epoch. Where it stays out of reach for
    `patience` epochs, the weights of the last sparsity that held come back (the optimizer's moments
    stay), and from there half the step is tried, until steps are too small to matter; what remains
    of the run trains that. `fit` ends with the sparsest weights that held, whatever was tried last,
    and prints them; `logs["held_sparsity"]` says them epoch by epoch.

    Each sparsity has one or a few epochs to recover: give it a model that is trained, or train it
    without a sparsity for `warm_up` epochs first. For the `schedule` of `kprune.Pruning`, for one
    optimizer, and all that is pruned.

    Example:

    >>> schedule = kprune.Adaptive(monitor="val_accuracy", max_drop=0.01)
    >>> schedule.holds(0.905, best=0.91), schedule.holds(0.895, best=0.91)
    (True, False)

    ```python
    schedule = kprune.Adaptive(monitor="val_accuracy", max_drop=0.01)
    pruning = kprune.Pruning(schedule=schedule, allocation=kprune.Global())
    model.fit(x, y, epochs=30, validation_data=(x_val, y_val), callbacks=[pruning])
    model = kprune.strip_pruning(model)
    ```

    Args:
        monitor: str, the name of a metric in the logs of an epoch.
        max_drop: float >= 0, by how much it may be worse than its best value so far (or than
            `baseline`); in the metric's own units.
        baseline: float, what it is compared with instead; by default its best value so far, which
            the `warm_up` begins. For a model that has zeros already, that of the dense one.
        initial_sparsity: float in [0, 1), the first that is tried; a model with more zeros begins
            with those it has.
        highest: float in [0, 1), the last that is tried.
        step: float in [0.02, 1), the share of the weights left that goes next.
        patience: int >= 1, epochs in which a sparsity must come to hold.
        warm_up: int >= 1, epochs before the first is tried.
        mode: "min" or "max", which values are better; by default what Keras knows of the metric.
        frequency: int >= 1, optimizer steps from one update of the masks to the next.

    Attributes:
        tried: list of dicts with "epoch", "sparsity", "value" and "held".

    Raises:
        ValueError: an argument out of its range. In `fit`: several optimizers, or one with moving
            averages of the weights. At the end of its first epoch: no such metric in the logs, or
            one of which it is not known whether lower is better.
    """

    promises = followed = False

    _configured = (
        "monitor",
        "max_drop",
        "baseline",
        "initial_sparsity",
        "highest",
        "step",
        "patience",
        "warm_up",
        "mode",
        "frequency",
    )

    def __init__(
        self,
        monitor: str = "val_accuracy",
        max_drop: float = 0.01,
        baseline: float | None = None,
        initial_sparsity: float = 0.5,
        highest: float = 0.99,
        step: float = 0.3,
        patience: int = 2,
        warm_up: int = 1,
        mode: str | None = None,
        frequency: int = 20,
    ) -> None:
        self.monitor, self.baseline, self.mode = monitor, baseline, mode
        self.max_drop, self.step = max_drop, step
        self.initial_sparsity = check_sparsity(initial_sparsity, "initial_sparsity")
        self.highest = check_sparsity(highest, "highest")
        self.patience, self.warm_up, self.frequency = patience, warm_up, frequency
        self._check()
        self.tried: list[dict[str, Any]] = []
        self.search: Any = None  # While one is under way, what has the weights that held.
        # Between which steps the sparsity rises, and from which to which.
        self._steps, self._shares = (-1, -1), (0.0, 0.0)
        self.variables: list[keras.Variable] = []

    def _check(self):
        number, count = numbers.Real, numbers.Integral
        good = {
            "monitor": (isinstance(self.monitor, str) and self.monitor, "the name of a metric"),
            "max_drop": (isinstance(self.max_drop, number) and self.max_drop >= 0, ">= 0"),
            "baseline": (isinstance(self.baseline, number | None), "a number, or None"),
            "initial_sparsity": (self.initial_sparsity <= self.highest, "at most `highest`"),
            "step": (
                isinstance(self.step, number) and SMALLEST_STEP <= self.step < 1,
                f"in [{SMALLEST_STEP}, 1)",
            ),
            "patience": (isinstance(self.patience, count) and self.patience >= 1, "an int >= 1"),
            "warm_up": (isinstance(self.warm_up, count) and self.warm_up >= 1, "an int >= 1"),
            "mode": (self.mode in (None, "min", "max"), "'min', 'max' or None"),
            "frequency": (isinstance(self.frequency, count) and self.frequency >= 1, "an int >= 1"),
        }
        for name, (is_good, wanted) in good.items():
            if not is_good:
                raise ValueError(
                    f"`{name}` of Adaptive must be {wanted}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )

    def fresh(self) -> Self:
        """Return one like it for a `fit` that follows it, which writes what it tries here."""
        new = type(self)(**self.get_config())
        self.tried.clear()
        new.tried, new.followed = self.tried, True
        return new

    def build(self) -> None:
        """Make the variables by which the compiled step knows the sparsity."""
        if not self.variables:
            for dtype in ("int32", "float32"):
                self.variables.append(
                    keras.Variable([0, 0], dtype=dtype, trainable=False, name=f"adaptive_{dtype}")
                )
            self._write()

    def rise(self, begin: int, end: int, sparsity: float) -> None:
        """Let the sparsity rise from what it is, between two optimizer steps."""
        self._steps, self._shares = (begin, max(end, begin)), (self.sparsity, sparsity)
        self._write()

    def hold(self, step: int, sparsity: float) -> None:
        """Let the sparsity be one, from an optimizer step on that has been made."""
        self._steps, self._shares = (step, step), (sparsity, sparsity)
        self._write()

    @property
    def sparsity(self) -> float:
        """The sparsity that is reached, or about to be."""
        return self._shares[1]

    def _write(self):
        if self.variables:
            steps, shares = self.variables
            steps.assign(self._steps)
            shares.assign(self._shares)

    def __call__(self, step: int | Tensor) -> tuple[bool | Tensor, float | Tensor]:
        now: Any
        if isinstance(step, numbers.Integral):
            now, (begin, end), (low, high) = int(step), self._steps, self._shares
            left = min(max((end - now) / max(end - begin, 1), 0.0), 1.0)
        else:
            now, steps, shares = ops.cast(step, "int32"), *map(backend.read, self.variables)
            begin, end, low, high = steps[0], steps[1], shares[0], shares[1]
            length = ops.cast(ops.maximum(end - begin, 1), "float32")
            left = ops.clip(ops.cast(end - now, "float32") / length, 0.0, 1.0)
        return self._is_update(now, begin, end), high + (low - high) * left**_POWER

    def _is_update(self, step, begin, end):
        turn = ((step - begin) % self.frequency == 0) | (step == end)
        return turn & (step >= begin) & (step <= end)

    def last_update(self, step: int) -> int | None:
        begin, end = self._steps
        if begin < 0 or step < begin:
            return None
        return end if step >= end else step - (step - begin) % self.frequency

    def is_better(self, value: float, other: float) -> bool:
        """Whether one value of the metric is better than another; `mode` is known by then."""
        return value < other if self.mode == "min" else value > other

    def holds(self, value: float, best: float) -> bool:
        """Whether a value is near enough to the best; one that is NaN is not."""
        reference = best if self.baseline is None else self.baseline
        drop = value - reference if self.mode == "min" else reference - value
        return drop <= self.max_drop

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._configured}
