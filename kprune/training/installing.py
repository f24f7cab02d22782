"""How `PruningOptimizer`s get into a model for a `fit`, and off it again."""

from typing import Any

import keras

from kprune._keras import backend
from kprune._keras.fit import run_last
from kprune._keras.optimizers import trained_variables
from kprune.graphs.weights import is_built, sparsity_of
from kprune.pruning.groups import check_finite, near_zero_share, pruned_share
from kprune.pruning.plan import Before
from kprune.training.accumulators import await_file, taken
from kprune.training.adaptive_search import running_searches
from kprune.training.finish import finish
from kprune.training.mechanism import Mechanism, register
from kprune.training.optimizers import optimizers_in, replace_optimizers
from kprune.training.pruning_optimizer import PruningOptimizer
from kprune.training.run import Run
from kprune.training.wrappers.pruning_wrapper import weights_that_stay
from kprune.training.zeros import pruned_groups, pruning_optimizers


class Installation:
    """The optimizers that were put into a model, and those that were there before."""

    def __init__(self, model, pairs):
        self._model = model
        self._before = {id(new): old for old, new in pairs}

    def undo(self):
        """Leave the model as it was; before another callback of the same `fit`, too."""
        before = self._before
        replace_optimizers(self._model, lambda one: before.get(id(one), one))
        for optimizer in before.values():
            if isinstance(optimizer, PruningOptimizer):
                optimizer.withdraw()


class MaskedOptimizers(Mechanism):
    """The optimizers of a model, wrapped so that they carry masks."""

    prunes = True

    def install(self, model, wrap):
        """Wrap each optimizer of a model, and build those that can be.

        Args:
            model: a compiled `keras.Model`.
            wrap: function from an optimizer to a `PruningOptimizer`.
        """
        _end_searches(model, earlier_than=getattr(model, "history", None))
        with backend.variable_scope(model):
            pairs = [(optimizer, wrap(optimizer)) for optimizer in optimizers_in(model)]
            wrapped = {id(old): new for old, new in pairs}
            replace_optimizers(model, lambda one: wrapped.get(id(one), one))
            for _, optimizer in pairs:
                optimizer.installation = Installation(model, pairs)
            for _, optimizer in pairs:
                base = optimizer.base_optimizer
                if base.built:
                    optimizer.build(trained_variables(base))
                elif len(pairs) == 1 and is_built(model):
                    optimizer.build(model.trainable_variables)
                # Else it is built in its first step, with what it trains.
        backend.recompile(model)

    def describe(self, model):
        return [
            f"the optimizer {optimizer.name!r} of {model.name!r} prunes"
            for optimizer in pruning_optimizers(model)
        ]

    def remove(self, model):
        _end_searches(model)
        if pruning_optimizers(model):
            replace_optimizers(
                model,
                lambda one: one.base_optimizer if isinstance(one, PruningOptimizer) else one,
            )
            backend.recompile(model)
        return model

    def groups(self, model):
        return [group for one in pruning_optimizers(model) for group in one.groups]


def _end_searches(model, earlier_than=None):
    """Put back the weights that held, where a `fit` was interrupted in a search for more zeros."""
    for search in running_searches(model):
        if earlier_than is None or search.fit is not earlier_than:
            search.finish()


MASKED_OPTIMIZERS = register(MaskedOptimizers())


class InstallsMasks(keras.callbacks.Callback):
    """Wraps the optimizers of a model at the first epoch of `fit`, and looks back at its end.

    The wrappers stay, and hold the zeros in further training. Subclasses say by which plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self._installed_in = None
        self._waits = False
        self._runs: dict = {}

    def plan(self, run: Any, before: Any) -> Any:
        """Return the `PruningPlan` of one optimizer.

        Args:
            run: its `Run`.
            before: `Before`, what it was to prune so far.
        """
        raise NotImplementedError

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        await_file(optimizers_in(model))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._installed_in = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Not earlier: `BackupAndRestore` and the like restore the model, its optimizer
        # and the epoch in `on_train_begin`.
        if self._installed_in is not self.model:
            backend.check_strategy(self.model)
            MASKED_OPTIMIZERS.install(self.model, lambda one: self._wrapped(one, epoch))
            self._installed_in = self.model
            self._waits = run_last(self.model, self._finish)
        else:
            self.follow(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        groups = pruned_groups(self.model)
        if not groups:
            return
        if not self.model.stop_training:  # TerminateOnNaN, or the like, has seen it.
            check_finite([weight for group in groups for weight in group.weights])
        if logs is not None:
            logs["sparsity"] = pruned_share(groups)
            logs["model_sparsity"] = sparsity_of(weights_that_stay(self.model))
            if any(group.setting.penalty is not None for group in groups):
                logs["near_zero"] = near_zero_share(groups)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._waits:
            self._finish()

    def _finish(self):
        self._runs = {}
        said = [search.finish() for search in running_searches(self.model)]
        finish(self.model, (self.params or {}).get("verbose", 1), said)

    def _wrapped(self, optimizer, epoch):
        previous = optimizer if isinstance(optimizer, PruningOptimizer) else None
        base = optimizer if previous is None else previous.base_optimizer
        run = Run(base, epoch, self.params.get("epochs"), self.params.get("steps"))
        fit = getattr(self.model, "history", None)
        before = Before()
        if previous is not None:
            same_fit = previous.fit is fit
            waiting = same_fit and not previous.built
            before = Before(previous.plan if waiting else previous.groups, same_fit)
        new = PruningOptimizer.by_plan(base, self.plan(run, before))
        new.fit, new.accumulators = fit, taken(optimizer)
        self._runs[id(new)] = run
        return new

    def follow(self, epoch: int) -> None:
        """Look at the steps that the last epoch made."""
