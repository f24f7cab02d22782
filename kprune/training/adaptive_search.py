"""What `Adaptive` does between the epochs of a `fit`: raise the sparsity, or take it back."""

import dataclasses
import warnings

import numpy as np

from kprune._keras import backend
from kprune._keras.fit import lower_is_better
from kprune.pruning.adaptive import SMALLEST_STEP
from kprune.pruning.groups import pruned_share
from kprune.training.optimizers import optimizers_in
from kprune.training.state import chain
from kprune.training.zeros import pruning_optimizers


@dataclasses.dataclass
class _Held:
    """Weights that are good enough."""

    sparsity: float
    value: float
    weights: list


class AdaptiveSearch:
    """Follows an `Adaptive` schedule through a `fit`.

    Args:
        model: the `keras.Model`, with its one `PruningOptimizer`.
        schedule: the `Adaptive` that it prunes by.
    """

    def __init__(self, model, schedule):
        self._model, self._schedule = model, schedule
        self.fit = getattr(model, "history", None)  # That of the `fit` that it is of.
        self._step, self._epochs, self._settled = schedule.step, 0, False
        self._best = self._held = None
        self._since = 0  # Epochs that the present sparsity has had.
        self._began = self._now()
        schedule.search = self

    @property
    def settled(self):
        """Whether no other sparsity will be tried."""
        return self._settled

    def epoch_end(self, epoch, logs):
        """Look at an epoch's metric, and say how sparse the next one becomes."""
        schedule = self._schedule
        value = self._value(logs)
        now = self._now()
        made, self._began = now - self._began, now
        self._epochs += 1
        if np.isfinite(value) and (self._best is None or schedule.is_better(value, self._best)):
            self._best = value
        if self._epochs == schedule.warm_up:
            self._begin(now, made, value)
        elif self._settled:
            if schedule.holds(value, self._best) and not schedule.is_better(
                self._held.value, value
            ):
                self._keep(value)
        elif self._epochs > schedule.warm_up:
            self._judge(epoch, now, made, value)
        logs["held_sparsity"] = 0.0 if self._held is None else self._held.sparsity

    def finish(self):
        """Put back the sparsest weights that held; return a sentence on them."""
        schedule, held = self._schedule, self._held
        schedule.search = None
        if held is None:
            return f"the {schedule.warm_up} epochs of warm-up were not reached: nothing was pruned"
        self._restore()  # Other callbacks may have put back weights of their own.
        if not schedule.tried:
            return f"no other sparsity than {held.sparsity:.4f} was tried, {self._why_none()}"
        if not any(one["held"] for one in schedule.tried):
            return (
                f"no sparsity held {schedule.monitor} within {schedule.max_drop:g}; the weights "
                f"are those before the first, {schedule.tried[0]['sparsity']:.4f}"
            )
        reference = self._best if schedule.baseline is None else schedule.baseline
        return (
            f"{schedule.monitor} held at sparsity {held.sparsity:.4f}: {held.value:.4f}, "
            f"against {reference:.4f}; the sparsest of {len(schedule.tried)} tried"
        )

    def _why_none(self):
        if self._settled:
            return f"as `highest` is {self._schedule.highest:g}"
        return "as no epoch was left to"

    def _begin(self, now, made, value):
        """Keep the weights from before, and try the first sparsity."""
        schedule, share = self._schedule, self._share()
        if self._best is None:
            raise ValueError(
                f"Adaptive follows {schedule.monitor!r}, which is {value} after {self._epochs} "
                "epochs: there is nothing to compare with. Train the model first."
            )
        if share >= 0.01 and schedule.baseline is None:
            warnings.warn(
                f"{share:.4f} of what Adaptive prunes is zero already, so `max_drop` counts from "
                f"the {schedule.monitor} of a pruned model. Pass `baseline=`, the dense model's.",
                stacklevel=2,
            )
        schedule.hold(now, share)
        self._keep(value)
        if share >= schedule.initial_sparsity:
            self._raise(now, made)
        else:
            self._rise(now, made, schedule.initial_sparsity)

    def _judge(self, epoch, now, made, value):
        schedule, share = self._schedule, self._share()
        self._since += 1
        holds = schedule.holds(value, self._best)
        schedule.tried.append({"epoch": epoch, "sparsity": share, "value": value, "held": holds})
        if holds:
            self._keep(value)
            self._raise(now, made)
        elif self._since >= schedule.patience:
            self._restore()
            self._step /= 2
            self._raise(now, made)

    def _raise(self, now, made):
        """Prune a further share of what is left; or settle, where that is too little."""
        schedule = self._schedule
        left = 1 - schedule.sparsity
        sparsity = min(1 - left * (1 - self._step), schedule.highest)
        if left - (1 - sparsity) < (SMALLEST_STEP - 1e-9) * left:
            self._settle(now)
        else:
            self._rise(now, made, sparsity)

    def _settle(self, now):
        self._settled = True
        self._schedule.hold(now, self._schedule.sparsity)

    def _rise(self, now, made, sparsity):
        self._since = 0
        self._schedule.rise(now, now + max(made // 2, 1), sparsity)

    def _keep(self, value):
        weights = [np.array(weight) for weight in self._model.get_weights()]
        self._held = _Held(self._share(), value, weights)
        self._target = self._schedule.sparsity

    def _restore(self):
        self._model.set_weights(self._held.weights)
        self._schedule.hold(self._now(), self._target)
        for optimizer in pruning_optimizers(self._model):
            optimizer.restore_masks()

    def _value(self, logs):
        schedule = self._schedule
        name = schedule.monitor
        if name not in logs:
            known = ", ".join(map(repr, logs))
            validated = " Pass `validation_data` to `fit`, for every epoch."
            hint = validated if name.startswith("val_") else ""
            raise ValueError(
                f"Adaptive follows {name!r}, which is not in the logs of this epoch.{hint} "
                f"Received: monitor={name!r}; there are {known}"
            )
        if schedule.mode is None:
            lower = lower_is_better(self._model, name)
            if lower is None:
                raise ValueError(
                    f"Whether lower values of {name!r} are better is not known: pass mode='min' or "
                    f"mode='max' to Adaptive. Received: monitor={name!r}"
                )
            schedule.mode = "min" if lower else "max"
        return float(logs[name])

    def _share(self):
        groups = [group for one in pruning_optimizers(self._model) for group in one.groups]
        return pruned_share([one for one in groups if one.setting.schedule is self._schedule])

    def _now(self):
        return backend.to_int(pruning_optimizers(self._model)[0].iterations)


def check_one_optimizer(model):
    """Raise where `Adaptive` cannot follow what a model trains by."""
    found = optimizers_in(model)
    if len(found) > 1:
        raise ValueError(
            "Adaptive follows the steps of one optimizer. Prune what others train by a schedule, "
            f"such as kprune.Pruning(0.8). Received: a model with {len(found)} optimizers, "
            f"{', '.join(one.name for one in found)}"
        )
    if any(one.use_ema for optimizer in found for one in chain(optimizer)):
        raise ValueError(
            "Adaptive ends with weights whose metric was seen, and `use_ema` would replace them "
            f"with averages. Received: use_ema=True in {found[0].name!r}"
        )


def running_searches(model):
    """Return the searches that have not ended in a model, as after an interrupt."""
    schedules = [
        group.setting.schedule
        for optimizer in pruning_optimizers(model)
        for group in optimizer.groups
    ]
    found = [getattr(schedule, "search", None) for schedule in schedules]
    return list({id(one): one for one in found if one is not None}.values())
