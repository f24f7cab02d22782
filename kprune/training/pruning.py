"""The one line in `model.fit`."""

import dataclasses
from typing import Any

from kprune._keras import backend
from kprune.graphs.weights import check_model
from kprune.pruning.adaptive import Adaptive
from kprune.pruning.allocation import Allocation, Uniform
from kprune.pruning.criteria import Criterion, Magnitude
from kprune.pruning.groups import Setting
from kprune.pruning.patterns import NM, Pattern, Unstructured
from kprune.pruning.penalties import Penalty
from kprune.pruning.plan import DuringFit
from kprune.pruning.regrowth import Regrowth
from kprune.pruning.schedules import PruningSchedule, check_sparsity
from kprune.pruning.window import Window
from kprune.training.adaptive_search import AdaptiveSearch, check_one_optimizer
from kprune.training.installing import InstallsMasks
from kprune.training.optimizers import optimizers_in
from kprune.training.target_layers import check_target, layers_for
from kprune.training.variational.wrapper import noisy_layers_in
from kprune.training.wrappers.pruning_wrapper import wrappers_in


class Pruning(InstallsMasks):
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
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.85, target="litert-arm64")])
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
        regrowth: a `kprune.pruning.RigL`, by which masked weights may come back; None by
            default: what is pruned stays so while sparsity rises.
        penalty: a `kprune.pruning.Penalty`, such as `Lasso(0.01)`, which draws weights towards
            zero before they are pruned; without a sparsity it is all that acts.
        target: where the model will run, as in `kprune.for_target`, which then chooses layers and
            patterns: what is faster there with so many zeros. All else is left dense. Not with
            `layers` or `pattern`.

    Raises:
        ValueError: an argument out of its range. At the start of `fit`: nothing to
            prune, or to make faster on the `target`, `layers` that matches nothing,
            weights that are NaN or infinite, a run of unknown length without a `schedule`,
            a distribution strategy that Keras' `fit` cannot run; the model is left as it
            was.
        TypeError: an argument of the wrong kind.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        schedule: PruningSchedule | None = None,
        criterion: Criterion | None = None,
        pattern: Pattern | None = None,
        allocation: Allocation | None = None,
        layers: Any = None,
        begin: float = 0.1,
        end: float = 0.7,
        frequency: int | None = None,
        regrowth: Regrowth | None = None,
        penalty: Penalty | None = None,
        target: Any = None,
    ) -> None:
        super().__init__()
        if sparsity is not None and schedule is not None:
            raise ValueError(
                "Give a `sparsity` or a `schedule`, not both. "
                f"Received: sparsity={sparsity!r}, schedule={schedule!r}"
            )
        if penalty is not None and sparsity is None and schedule is None:
            sparsity = 0.0
        if sparsity is None and schedule is None and not isinstance(layers, dict):
            raise ValueError("Give a `sparsity`, such as kprune.Pruning(0.9), or a `schedule`.")
        self.default = Setting(
            schedule,
            None if sparsity is None else check_sparsity(sparsity),
            criterion or Magnitude(),
            pattern or Unstructured(),
            allocation or Uniform(),
            regrowth,
            penalty,
        )
        self._for_a_fit().check()
        self._search: Any = None  # Of the `fit` that is under way, as is this:
        self._adaptive: Any = None
        self.layers = layers
        self.target = None if target is None else self._checked_target(target, pattern)
        self.begin, self.end, self.frequency = begin, end, frequency
        self._window().check()

    def _window(self):
        return Window(self.begin, self.end, self.frequency)

    def _checked_target(self, target, pattern):
        target = check_target(target)
        name = target.name
        if self.layers is not None or pattern is not None:
            raise ValueError(
                "A `target` chooses layers and patterns: give it without `layers` and `pattern`, "
                "or change what kprune.for_target(model, target) returns, and give that as "
                "`layers`. "
                f"Received: target={name!r}, layers={self.layers!r}, pattern={pattern!r}"
            )
        if not self.default.final_sparsity:
            raise ValueError(
                "Which layers are faster depends on their sparsity: give a `sparsity` above 0, or "
                f"a schedule that names its `final_sparsity`. Received: target={name!r}, "
                f"sparsity={self.default.sparsity!r}, schedule={self.default.schedule!r}"
            )
        return target

    def _for_a_fit(self):
        """The setting with a schedule of its own, if that is one which follows a `fit`."""
        schedule = self.default.schedule
        if not isinstance(schedule, Adaptive):
            return self.default
        if isinstance(self.default.pattern, NM):
            raise ValueError(
                "A pattern N:M has one sparsity, so Adaptive has nothing to try. "
                f"Received: pattern={self.default.pattern!r}, schedule={schedule!r}"
            )
        return dataclasses.replace(self.default, schedule=schedule.fresh())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        first = self._installed_in is not self.model
        super().on_epoch_begin(epoch, logs)
        if first and self._adaptive is not None:
            self._search = AdaptiveSearch(self.model, self._adaptive)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self._search is not None and logs is not None:
            self._search.epoch_end(epoch, logs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._search = self._adaptive = None

    def plan(self, run: Any, before: Any) -> Any:
        setting = self._for_a_fit()
        if isinstance(setting.schedule, Adaptive):
            check_one_optimizer(self.model)
            self._adaptive = setting.schedule
        layers = self.layers
        if self.target is not None:
            layers = layers_for(self.model, self.target, self.default.final_sparsity)
        return DuringFit(
            self.model,
            setting,
            layers,
            window=self._window(),
            run=run,
            before=before,
            check=_check_unwrapped,
        )

    def follow(self, epoch: int) -> None:
        changed = False
        for optimizer in optimizers_in(self.model):
            run = self._runs.get(id(optimizer))
            if run is None or not optimizer.built or not run.follow(epoch):
                continue
            changed = True
            optimizer.reschedule(self._window().again(optimizer.groups, run))
        if changed:
            backend.recompile(self.model)


def _check_unwrapped(model):
    check_model(model)
    wrapped = [wrapper.layer.name for wrapper in wrappers_in(model)]
    if wrapped:
        raise ValueError(
            f"Layers of {model.name!r} are wrapped in PruneLowMagnitude and prune by "
            "themselves: train with kprune.UpdatePruningStep() instead of kprune.Pruning, or "
            f"without the wrappers. Received: wrapped layers {wrapped}"
        )
    noisy = [wrapper.layer.name for wrapper in noisy_layers_in(model)]
    if noisy:
        raise ValueError(
            f"Layers of {model.name!r} learn in SparseVariationalDropout what will be zero: train "
            "them without kprune.Pruning, take that off with kprune.strip_pruning(model), and then "
            f"prune further. Received: wrapped layers {noisy}"
        )
