"""How sparse, when: the target sparsity as a function of the optimizer step.

A step is the number of optimizer updates that have been made
(`optimizer.iterations`). Schedules are pure: they hold no state, and take Python
integers as well as traced integer tensors.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.configurable import Configurable


class PruningSchedule(Configurable):
    """Base class: maps a step to (do masks change now?, target sparsity).

    Subclass it and write `__call__` and `get_config` for a schedule of your own;
    `begin_step`, `end_step` and `final_sparsity` are read where they exist. A subclass
    written for TFMOT works as it is: its `get_config` may return
    `{"class_name": ..., "config": arguments}`, and `_should_prune_in_step`,
    `_validate_step` and `_validate_sparsity` are here, too.

    Example:

    ```python
    class Halves(kprune.PruningSchedule):
        def __call__(self, step):
            return step % 100 == 0, 1 - 0.5 ** (step // 100)
    ```
    """

    begin_step = 0
    end_step = -1
    final_sparsity: float | None = None
    promises = True  # Whether it is to make zeros, whatever becomes of the model.
    followed = True  # Whether all that it needs besides the step is there.
    variables: Sequence[keras.Variable] = ()  # What `__call__` reads besides the step.

    def build(self) -> None:
        """Make the `variables`, if there are any; called before the step is compiled."""

    def __call__(self, step: int | Tensor) -> tuple[bool | Tensor, float | Tensor]:
        """Return `(update, sparsity)` at `step`.

        Args:
            step: Python int, or scalar integer tensor.

        Returns:
            A pair of bool and float for a Python int, else of scalar tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(step)`.")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as a serializable dict, or TFMOT's form of it."""
        raise NotImplementedError(f"{type(self).__name__} must define `get_config()`.")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a schedule from what `get_config` returned, in either form."""
        return cls(**_arguments(config))

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in _arguments(self.get_config()).items())
        return f"{type(self).__name__}({arguments})"

    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        """Whether masks change at `step`: every `frequency` steps within begin and end.

        Args:
            step: Python int, or scalar integer tensor.
            begin_step: int, the first step at which they may.
            end_step: int, the last one; negative for no end.
            frequency: int, steps from one update to the next.
        """
        turn = (step >= begin_step) & ((step - begin_step) % frequency == 0)
        return turn if end_step < 0 else turn & (step <= end_step)

    def _validate_step(self, begin_step, end_step, frequency, allow_negative_1):
        """Raise ValueError unless the steps are in their ranges and in order."""
        _check_int(begin_step, "begin_step", at_least=0)
        _check_int(end_step, "end_step", at_least=-1 if allow_negative_1 else 0)
        if end_step != -1:
            _check_order(begin_step, end_step)
        _check_int(frequency, "frequency", at_least=1)

    def _validate_sparsity(self, sparsity, variable_name):
        """Raise ValueError unless `sparsity` is in [0, 1)."""
        check_sparsity(sparsity, variable_name)

    def last_update(self, step: int) -> int | None:
        """Return the last step at or before the int `step` at which masks change, or None."""
        for earlier in range(int(step), -1, -1):
            if bool(self(earlier)[0]):
                return earlier
        return None


class _PeriodicSchedule(PruningSchedule):
    """Updates at `begin_step`, every `frequency` steps after it, and at `end_step`."""

    frequency: int
    _configured: tuple[str, ...]

    def _sparsity(self, step: int | Tensor) -> float | Tensor:
        raise NotImplementedError

    def __call__(self, step: int | Tensor) -> tuple[bool | Tensor, float | Tensor]:
        return self._is_update(step), self._sparsity(step)

    def get_config(self) -> dict[str, Any]:
        """Return the class and the constructor's arguments, as TFMOT's schedules do."""
        arguments = {name: getattr(self, name) for name in self._configured}
        return {"class_name": type(self).__name__, "config": arguments}

    def _is_update(self, step):
        update = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return update if self.end_step == -1 else update | (step == self.end_step)

    def last_update(self, step: int) -> int | None:
        step = int(step)
        if step < self.begin_step:
            return None
        if self.end_step != -1 and step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency


@keras.saving.register_keras_serializable(package="kprune")
class PolynomialDecay(_PeriodicSchedule):
    """Sparsity that rises along a polynomial, fast at first, then ever more slowly.

    At step t, with p = clip((t - begin_step) / (end_step - begin_step), 0, 1):

        sparsity = final + (initial - final) * (1 - p) ** power

    Zhu and Gupta, "To prune, or not to prune" (2017), with TFMOT's arguments.
    Unlike TFMOT's, the last update is always made at `end_step`, so that the
    final sparsity is the one asked for whatever `frequency` is.

    Example:

    >>> schedule = kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    >>> schedule(0), schedule(1000)
    ((True, 0.0), (True, 0.8))
    >>> [round(schedule(step)[1], 4) for step in range(0, 1001, 250)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8]
    >>> schedule(550)[0]  # between two updates
    False

    Args:
        initial_sparsity: float in [0, 1), the sparsity at `begin_step`.
        final_sparsity: float in [0, 1), the sparsity at `end_step` and after.
        begin_step: int >= 0, the first step at which masks change.
        end_step: int >= `begin_step`, the last one.
        power: number > 0; 1 is a straight line.
        frequency: int >= 1, steps from one update to the next.

    Raises:
        ValueError: an argument is out of its range.
    """

    _configured = (
        "initial_sparsity",
        "final_sparsity",
        "begin_step",
        "end_step",
        "power",
        "frequency",
    )

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        self.initial_sparsity = check_sparsity(initial_sparsity, "initial_sparsity")
        self.final_sparsity = check_sparsity(final_sparsity, "final_sparsity")
        self.begin_step = _check_int(begin_step, "begin_step", at_least=0)
        self.end_step = _check_int(end_step, "end_step", at_least=0)
        _check_order(self.begin_step, self.end_step)
        if not isinstance(power, numbers.Real) or not power > 0:
            raise ValueError(f"`power` must be a number above 0. Received: power={power!r}")
        self.power = power
        self.frequency = _check_int(frequency, "frequency", at_least=1)

    def _sparsity(self, step):
        length = max(self.end_step - self.begin_step, 1)
        change = self.initial_sparsity - self.final_sparsity
        if isinstance(step, numbers.Integral):
            left = min(max((self.end_step - step) / length, 0.0), 1.0)
            return self.final_sparsity + change * left**self.power
        left = ops.cast(self.end_step - step, "float32") / length
        left = ops.clip(left, 0.0, 1.0)
        return self.final_sparsity + change * ops.power(left, float(self.power))


@keras.saving.register_keras_serializable(package="kprune")
class ConstantSparsity(_PeriodicSchedule):
    """One sparsity from `begin_step` on; masks follow the weights until `end_step`.

    Example:

    >>> schedule = kprune.ConstantSparsity(0.5, begin_step=100)
    >>> [schedule(step) for step in (50, 100, 150, 200)]
    [(False, 0.5), (True, 0.5), (False, 0.5), (True, 0.5)]

    Args:
        target_sparsity: float in [0, 1).
        begin_step: int >= 0, the first step at which masks change.
        end_step: int >= `begin_step`, the last one; -1 for no end.
        frequency: int >= 1, steps from one update to the next.

    Raises:
        ValueError: an argument is out of its range.
    """

    _configured = ("target_sparsity", "begin_step", "end_step", "frequency")

    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        self.target_sparsity = check_sparsity(target_sparsity, "target_sparsity")
        self.begin_step = _check_int(begin_step, "begin_step", at_least=0)
        self.end_step = _check_int(end_step, "end_step", at_least=-1)
        if self.end_step != -1:
            _check_order(self.begin_step, self.end_step)
        self.frequency = _check_int(frequency, "frequency", at_least=1)

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The sparsity at the schedule's end."""
        return self.target_sparsity

    def _sparsity(self, step):
        if isinstance(step, numbers.Integral):
            return self.target_sparsity
        return ops.convert_to_tensor(self.target_sparsity, "float32")


def _arguments(config):
    """The constructor's arguments in a config, which TFMOT's form has one level down."""
    return config["config"] if set(config) == {"class_name", "config"} else config


def check_sparsity(value, name="sparsity"):
    """Return `value` as a float if it is a sparsity, a fraction in [0, 1); else raise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}")
    if 1 < value < 100:
        raise ValueError(
            f"`{name}` is a fraction in [0, 1), not a percentage: for {value:g}% "
            f"pass {value / 100:g}. Received: {name}={value!r}"
        )
    if not 0 <= value < 1:
        raise ValueError(
            f"`{name}` must be in [0, 1): 0 keeps every weight, and 1 would leave none. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def check_schedule(schedule):
    """Return `schedule` if it is one, else raise `TypeError` with what to pass."""
    if isinstance(schedule, PruningSchedule):
        if not schedule.followed:
            raise ValueError(
                f"{type(schedule).__name__} follows a metric, which it is told of as the "
                "`schedule` of kprune.Pruning alone. Leave layers dense with layers={...: None}. "
                f"Received: schedule={schedule!r}"
            )
        return schedule
    hint = ""
    if "tensorflow_model_optimization" in type(schedule).__module__:
        hint = " This one is TFMOT's: kprune has the same class with the same arguments."
    elif isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        hint = " This one is a learning-rate schedule."
    raise TypeError(
        "`schedule` must be a kprune.PruningSchedule such as kprune.PolynomialDecay or "
        f"kprune.ConstantSparsity.{hint} Received: {schedule!r} (of type {type(schedule)})"
    )


def _check_int(value, name, at_least):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != int(value):
        raise ValueError(f"`{name}` must be an integer. Received: {name}={value!r}")
    if value < at_least:
        no_end = " (-1, for no end, goes with ConstantSparsity only)" if value == -1 else ""
        raise ValueError(f"`{name}` must be at least {at_least}{no_end}. Received: {name}={value}")
    return int(value)


def _check_order(begin_step, end_step):
    if begin_step > end_step:
        raise ValueError(
            "`begin_step` must not come after `end_step`. "
            f"Received: begin_step={begin_step}, end_step={end_step}"
        )
