"""The one line in `model.fit`."""

import dataclasses
import warnings

import keras
from keras import ops

from kprune._keras import backend
from kprune._keras.fit import run_last
from kprune._keras.optimizers import trained_variables
from kprune.graphs.weights import check_model, is_built, sparsity_of, weights_of
from kprune.pruning import selection
from kprune.pruning.allocation import Uniform
from kprune.pruning.criteria import Magnitude
from kprune.pruning.groups import Setting, pruned_share
from kprune.pruning.patterns import Unstructured
from kprune.pruning.schedules import check_sparsity
from kprune.training import zeros
from kprune.training.finish import finish
from kprune.training.optimizer import PruningOptimizer
from kprune.training.optimizers import optimizers_in, replace_optimizers
from kprune.training.run import Run, check_window, derived_schedule, warn_if_cut_short
from kprune.training.wrappers.pruned import weights_besides_masks, wrappers_in

# By less a schedule may begin below the share that is zero already.
_SAME_SPARSITY = 1e-3


class _Installing(keras.callbacks.Callback):
    """Wraps the optimizers of a model at the first epoch of `fit`, and looks back at its end."""

    def __init__(self):
        super().__init__()
        self._installed_in = None
        self._waits = False
        self._runs = {}

    def on_train_begin(self, logs=None):
        self._installed_in = None

    def on_epoch_begin(self, epoch, logs=None):
        # Not earlier: `BackupAndRestore` and the like restore the model, its optimizer
        # and the epoch in `on_train_begin`.
        if self._installed_in is not self.model:
            self._install(epoch)
            self._installed_in = self.model
            self._waits = run_last(self.model, self._finish)
        else:
            self._follow(epoch)

    def on_epoch_end(self, epoch, logs=None):
        groups = zeros.pruned_groups(self.model)
        if not groups:
            return
        if not self.model.stop_training:  # TerminateOnNaN, or the like, has seen it.
            check_finite([weight for group in groups for weight in group.weights])
        if logs is not None:
            logs["sparsity"] = pruned_share(groups)
            logs["model_sparsity"] = sparsity_of(weights_besides_masks(self.model))

    def on_train_end(self, logs=None):
        if not self._waits:
            self._finish()

    def _finish(self):
        self._runs = {}
        finish(self.model, (self.params or {}).get("verbose", 1))

    def _install(self, epoch):
        model = self.model
        backend.check_strategy(model)
        before = optimizers_in(model)
        wrapped = {}

        def restore():
            back = {id(new): old for new, old in wrapped.values()}
            replace_optimizers(model, lambda optimizer: back.get(id(optimizer), optimizer))

        with backend.variable_scope(model):
            for optimizer in before:
                wrapped[id(optimizer)] = (self._wrap(optimizer, epoch, restore), optimizer)
            replace_optimizers(model, lambda one: wrapped.get(id(one), (one,))[0])
            for optimizer, _ in wrapped.values():
                base = optimizer.base_optimizer
                if base.built:
                    optimizer.build(trained_variables(base))
                elif len(wrapped) == 1 and is_built(model):
                    optimizer.build(model.trainable_variables)
                # Else it is built in its first step, with what it trains.
        backend.recompile(model)

    def _wrap(self, optimizer, epoch, restore):
        previous = optimizer if isinstance(optimizer, PruningOptimizer) else None
        base = optimizer if previous is None else previous.base_optimizer
        run = Run(base, epoch, self.params.get("epochs"), self.params.get("steps"))
        fit = getattr(self.model, "history", None)
        before = () if previous is None else previous.groups
        same_fit = previous is not None and previous.fit is fit

        def find_groups(variables):
            try:
                return self._groups(variables, run, before, same_fit)
            except Exception:
                restore()
                raise

        new = PruningOptimizer._for_groups(base, find_groups)
        new.fit = fit
        self._runs[id(new)] = run
        return new

    def _groups(self, variables, run, before, same_fit):
        """Return the `Group`s that an optimizer prunes; their schedules resolved.

        Args:
            variables: list of those that it trains.
            run: its `Run`.
            before: the `Group`s that it has pruned so far.
            same_fit: whether another callback of this `fit` asked for these.
        """
        raise NotImplementedError

    def _follow(self, epoch):
        """Look at the steps that the last epoch made."""


class Pruning(_Installing):
    """Prunes a model during `model.fit`.

    Wraps the optimizer of the compiled model in a `PruningOptimizer` before the first
    step; where a `train_step` of your own uses several optimizers, each of those that the
    model holds, pruning what it trains. With a sparsity, the schedule comes from the `fit`
    call itself: sparsity rises along a cubic from 10% to 70% of all optimizer steps, in
    some fifty updates; the rest of the run trains what is left. A model with zeros in it
    starts from the sparsity it has, so that training can be resumed and repeated.

    `logs["sparsity"]` is the share of zeros among all pruned weights at the end of each
    epoch, `logs["model_sparsity"]` that among all weights of the model. When `fit` ends, a
    line says what was reached, and a warning what was not. After `fit` the wrapper stays,
    and keeps the zeros in further training, also those of layers that a second `Pruning`
    doesn't name; take it off with `kprune.strip_pruning(model)`. A new `compile` takes it
    off as well: train on with `kprune.HoldZeros()`.

    Callbacks that pick an epoch by a metric (`EarlyStopping`, `ModelCheckpoint` of the
    best only) pick an early one, which is hardly sparse: put them into
    `kprune.after_pruning`.

    Zhu and Gupta, "To prune, or not to prune" (2017).

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    ```

    ```python
    layers = {"head": None, keras.layers.Dense: kprune.Block((4, 1)), "conv1": 0.5}
    model.fit(x, y, callbacks=[kprune.Pruning(0.8, layers=layers)])
    ```

    Args:
        sparsity: float in [0, 1), the share of zeros at the end in every pruned weight. At
            least one weight (with `Block`, one block) of every kernel stays.
        schedule: a `PruningSchedule` instead of `sparsity`. Its steps are those of
            `optimizer.iterations`.
        criterion: what scores the weights; `Magnitude()` by default.
        pattern: which shapes of zeros: `Unstructured()` (the default), `Block`, `NM`; or
            `Channels`, for whole channels that `kprune.shrink` then removes.
        allocation: how the weights share the sparsity; `Uniform()` by default. Optimizers of
            a `train_step` of your own each share out what they train.
        layers: which layers; all by default. A layer's name (`*` and `?` are wildcards),
            a layer class, a layer, a predicate `layer -> bool`, a list of those, or a dict
            from those to: None (leave dense), a sparsity, a schedule, a pattern, or a
            dict of this constructor's arguments. In a dict the first entry that matches
            decides, and layers that match none get this constructor's settings.
        begin: when pruning begins, with `sparsity`: a float is a fraction of all
            optimizer steps of the `fit` call, an int is a step counted from its start.
        end: when the sparsity is reached; as `begin`.
        frequency: int >= 1, steps between updates; by default (end - begin) / 50, and at
            most 100.

    Raises:
        ValueError: an argument out of its range. At the start of `fit`: nothing to
            prune, `layers` that matches nothing, weights that are NaN or infinite, a
            run of unknown length without a `schedule`, a distribution strategy that
            Keras' `fit` cannot run; the model is left as it was.
        TypeError: an argument of the wrong kind.
    """

    def __init__(
        self,
        sparsity=None,
        schedule=None,
        criterion=None,
        pattern=None,
        allocation=None,
        layers=None,
        begin=0.1,
        end=0.7,
        frequency=None,
    ):
        super().__init__()
        if sparsity is not None and schedule is not None:
            raise ValueError(
                "Give a `sparsity` or a `schedule`, not both. "
                f"Received: sparsity={sparsity!r}, schedule={schedule!r}"
            )
        if sparsity is None and schedule is None and not isinstance(layers, dict):
            raise ValueError("Give a `sparsity`, such as kprune.Pruning(0.9), or a `schedule`.")
        self.default = Setting(
            schedule,
            None if sparsity is None else check_sparsity(sparsity),
            criterion or Magnitude(),
            pattern or Unstructured(),
            allocation or Uniform(),
        ).check()
        self.layers = layers
        self.begin, self.end, self.frequency = begin, end, frequency
        check_window(begin, end, frequency)

    def _groups(self, variables, run, before, same_fit):
        check_model(self.model)
        wrapped = [wrapper.layer.name for wrapper in wrappers_in(self.model)]
        if wrapped:
            raise ValueError(
                f"Layers of {self.model.name!r} are wrapped in PruneLowMagnitude and prune by "
                "themselves: train with kprune.UpdatePruningStep() instead of kprune.Pruning, or "
                f"without the wrappers. Received: wrapped layers {wrapped}"
            )
        found = weights_of(self.model)
        groups = selection.group(found, self.default, self.layers, self.model)
        groups = [own for group in groups if (own := group.only(variables)) is not None]
        if backend.is_concrete():
            check_finite([weight for group in groups for weight in group.weights])
        resolved = [self._resolved(group, run) for group in groups]
        schedules = {id(g.setting.schedule): g.setting.schedule for g in resolved}
        warn_if_cut_short(schedules.values(), run)
        return resolved + zeros.carried(before, resolved, same_fit)

    def _resolved(self, group, run):
        schedule = group.setting.schedule or self._schedule(group, run)
        resolved = dataclasses.replace(
            group, setting=dataclasses.replace(group.setting, schedule=schedule)
        )
        _warn_if_zeros_go(resolved, run)
        return resolved

    def _schedule(self, group, run):
        """The schedule of a sparsity, from the length of this `fit` call."""
        final = group.setting.sparsity
        if run.total is None:
            raise ValueError(
                "The length of this `fit` is unknown, so no schedule follows from "
                f"sparsity={final:g}. Pass `steps_per_epoch` to `fit`, or "
                "`schedule=kprune.PolynomialDecay(...)` with steps of your own to Pruning."
            )
        return derived_schedule(group, run, self.begin, self.end, self.frequency)

    def _follow(self, epoch):
        changed = False
        for optimizer in optimizers_in(self.model):
            run = self._runs.get(id(optimizer))
            if run is None or not optimizer.built or not run.follow(epoch):
                continue
            changed = True
            optimizer.reschedule(
                lambda group, run=run: (
                    group.setting.schedule
                    if group.setting.sparsity is None
                    else self._schedule(group, run)
                )
            )
        if changed:
            backend.recompile(self.model)


class HoldZeros(_Installing):
    """Keeps what is zero in a model zero, in any training.

    For training after pruning with another optimizer, learning rate or loss, after
    `kprune.prune_channels` or `kprune.shrink`, or of a pruned model that was loaded: a new
    `compile` knows nothing of masks, and zeros grow back. What is zero at the start of `fit`
    stays zero; a weight that is zero as a whole, as some are initialized, is free. Together
    with `kprune.Pruning` it holds what that doesn't prune.

    Example:

    ```python
    model = keras.models.load_model("pruned.keras")
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2, callbacks=[kprune.HoldZeros()])
    ```
    """

    def _groups(self, variables, run, before, same_fit):
        check_model(self.model)
        kept = zeros.carried(before, (), same_fit)
        groups = kept + zeros.zero_groups(self.model, variables, besides=kept)
        if not groups:
            warnings.warn(
                f"HoldZeros: no weight of {self.model.name!r} that is trained has zeros to hold.",
                stacklevel=2,
            )
        return groups


def check_finite(weights):
    """Raise `ValueError` if one of the `Weight`s is NaN or infinite."""
    for weight in weights:
        if not bool(ops.all(ops.isfinite(backend.read(weight.variable)))):
            raise ValueError(
                f"{weight.name} has weights that are NaN or infinite, which cannot be ranked. "
                "If they became so in training, it diverged: lower the learning rate or clip "
                "the gradients."
            )


def _warn_if_zeros_go(group, run):
    """Warn of a schedule that is to begin, or ends, below what is zero already."""
    schedule = group.setting.schedule
    update = schedule.last_update(run.now) if run.now else None
    if update is None and backend.is_concrete():
        first, current = schedule(schedule.begin_step)[1], zeros.held_share(group)
        if first < current - _SAME_SPARSITY:
            names = [weight.name for weight in group.weights]
            warnings.warn(
                f"In {names} a share of {current:.4g} is zero, and the schedule begins at "
                f"{first:.4g}: zeros will grow back. To keep them, ask for a sparsity, or an "
                f"`initial_sparsity`, of at least {current:.4g}, or leave these layers out, whose "
                "zeros then stay.",
                stacklevel=2,
            )
