"""What `Adaptive` does between the epochs of a `fit`: raise the sparsity, or take it back."""

import dataclasses

import numpy as np

from kprune._keras import backend
from kprune.pruning.adaptive import Adaptive
from kprune.pruning.groups import pruned_share
from kprune.training.zeros import pruning_optimizers

_SMALLEST_STEP = 0.02  # Of the weights left: less is not worth an epoch.


@dataclasses.dataclass
class _Held:
    """Weights that are good enough."""

    sparsity: float
    value: float
    weights: list


class AdaptiveSearch:
    """Follows one `Adaptive` schedule through a `fit`.

    Args:
        model: the `keras.Model`.
        schedule: the `Adaptive`.
    """

    def __init__(self, model, schedule):
        self._model, self._schedule = model, schedule
        self._step, self._epochs, self._settled = schedule.step, 0, False
        self._best = self._held = None
        self._since = 0  # Epochs that the present sparsity has had.
        self._began = self._now()
        schedule.tried.clear()

    def epoch_end(self, epoch, logs):
        """Look at an epoch's metric, and say how sparse the next one becomes."""
        schedule = self._schedule
        value = self._value(logs)
        now = self._now()
        made, self._began = now - self._began, now
        self._epochs += 1
        self._see(value)
        if self._epochs == schedule.warm_up:
            self._begin(now, made, value)
        elif self._settled:
            if schedule.holds(value, self._best) and not schedule.is_better(
                self._held.value, value
            ):
                self._keep(self._held.sparsity, value)
        elif self._epochs > schedule.warm_up:
            self._judge(epoch, now, made, value)
        logs["held_sparsity"] = 0.0 if self._held is None else self._held.sparsity

    def finish(self):
        """Put back the sparsest weights that held; return a sentence on them."""
        schedule, held = self._schedule, self._held
        if held is None:
            return None
        self._restore()  # Other callbacks may have put back weights of their own.
        if not schedule.tried:
            return f"no epoch was left to try a sparsity for {schedule.monitor}"
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

    def _begin(self, now, made, value):
        """Keep the weights from before, and try the first sparsity."""
        groups = [g for g in self._groups() if g.setting.schedule is self._schedule]
        share = pruned_share(groups)
        self._schedule.hold(now, share)
        self._keep(share, value)
        if share >= self._schedule.initial_sparsity:
            self._raise(now, made)
        else:
            self._rise(now, made, self._schedule.initial_sparsity)

    def _judge(self, epoch, now, made, value):
        schedule = self._schedule
        self._since += 1
        holds = schedule.holds(value, self._best)
        schedule.tried.append(
            {"epoch": epoch, "sparsity": schedule.sparsity, "value": value, "held": holds}
        )
        if holds:
            self._keep(schedule.sparsity, value)
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
        if left - (1 - sparsity) < _SMALLEST_STEP * left:
            self._settled = True
            schedule.hold(now, schedule.sparsity)
        else:
            self._rise(now, made, sparsity)

    def _rise(self, now, made, sparsity):
        self._since = 0
        self._schedule.rise(now + 1, now + max(made // 2, 1), sparsity)

    def _keep(self, sparsity, value):
        self._held = _Held(sparsity, value, [np.array(w) for w in self._model.get_weights()])

    def _restore(self):
        self._model.set_weights(self._held.weights)
        self._schedule.hold(self._now(), self._held.sparsity)
        for optimizer in pruning_optimizers(self._model):
            optimizer.restore_masks()

    def _see(self, value):
        if np.isfinite(value) and (
            self._best is None or self._schedule.is_better(value, self._best)
        ):
            self._best = value

    def _value(self, logs):
        name = self._schedule.monitor
        if name not in logs:
            known = ", ".join(map(repr, logs))
            hint = " Pass `validation_data` to `fit`." if name.startswith("val_") else ""
            raise ValueError(
                f"Adaptive follows {name!r}, which is not in the logs of this `fit`.{hint} "
                f"Received: monitor={name!r}; there are {known}"
            )
        return float(logs[name])

    def _groups(self):
        return [group for one in pruning_optimizers(self._model) for group in one.groups]

    def _now(self):
        found = pruning_optimizers(self._model)
        return backend.to_int(found[0].iterations) if found else 0


def adaptive_schedules(model):
    """Return the `Adaptive` schedules of what a model's optimizers prune."""
    found = {
        id(group.setting.schedule): group.setting.schedule
        for optimizer in pruning_optimizers(model)
        for group in optimizer.groups
    }
    return [schedule for schedule in found.values() if isinstance(schedule, Adaptive)]
