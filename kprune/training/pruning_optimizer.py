"""The optimizer that carries the masks: they live and act inside the compiled step."""

import contextlib
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from kprune._keras import backend, legacy_h5, optimizers, tracking
from kprune._system.type_aliases import Tensor
from kprune.graphs.weights import check_model, weights_of
from kprune.pruning import selection
from kprune.pruning.allocation import Allocation, Uniform
from kprune.pruning.criteria import Criterion, Magnitude
from kprune.pruning.groups import Setting
from kprune.pruning.patterns import Pattern, Unstructured
from kprune.pruning.penalties import Penalty
from kprune.pruning.plan import ByName, Given
from kprune.pruning.regrowth import Regrowth
from kprune.pruning.schedules import ConstantSparsity, PruningSchedule, check_schedule
from kprune.training import gradients
from kprune.training.accumulators import Accumulators
from kprune.training.at_risk import ZEROS, held, unwatch
from kprune.training.checkpoints import SavedAsWrapped, masks_of, without
from kprune.training.penalize import penalize
from kprune.training.requests import remember
from kprune.training.state import chain, mask_averages, mask_slots


@keras.saving.register_keras_serializable(package="kprune")
class PruningOptimizer(SavedAsWrapped, keras.optimizers.Optimizer):
    """Wraps an optimizer so that its weights become, and stay, sparse.

    After every update of the wrapped optimizer, masked weights are set to zero; at
    the steps that the schedule names, the masks are computed again. All of it happens
    inside the compiled training step, where the weights are. The wrapped optimizer
    keeps its learning rate, state, loss scaling, moving averages and gradient
    accumulation; a step is one update of the weights (`optimizer.iterations`). The
    gradients of masked weights are zero before it sees them, so that they count neither
    in `global_clipnorm` nor in its moments. What is zero before the schedule begins
    stays zero until then.

    `kprune.Pruning` installs this in `model.fit`. Use it directly in a training loop
    of your own, through `apply` or `stateless_apply`. The mechanism is that of
    JaxPruner (Lee et al., 2023), for Keras.

    Example:

    ```python
    schedule = kprune.PolynomialDecay(0.0, 0.9, begin_step=100, end_step=1000)
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), schedule, model=model)
    optimizer.build(model.trainable_variables)
    for x, y in batches:
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
    ```

    Args:
        optimizer: the `keras.optimizers.Optimizer` to wrap, built or not. When it has
            made steps already, and the schedule has begun, the masks are taken up from
            the zeros in the weights.
        schedule: a `PruningSchedule`. May be None if `layers` gives each one its own.
        criterion: what scores the weights; `Magnitude()` by default.
        pattern: which shapes of zeros; `Unstructured()` by default.
        allocation: how the weights share the sparsity; `Uniform()` by default.
        layers: which layers, and with what; as in `kprune.Pruning`. Needs `model`.
        model: the model that is trained. Without it, the variables' names decide what
            is prunable.
        name: str.
        regrowth: a `kprune.pruning.RigL`, by which masked weights may come back, or None.
        penalty: a `kprune.pruning.Lasso`, which draws weights towards zero, or None.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: nothing to prune, or a pattern that a weight cannot have.
    """

    wrapped_name = "base_optimizer"

    built: bool  # Keras sets it.

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        schedule: PruningSchedule | None = None,
        criterion: Criterion | None = None,
        pattern: Pattern | None = None,
        allocation: Allocation | None = None,
        layers: Any = None,
        model: keras.Model | None = None,
        name: str | None = None,
        regrowth: Regrowth | None = None,
        penalty: Penalty | None = None,
    ) -> None:
        if isinstance(optimizer, PruningOptimizer):
            raise TypeError(
                "This optimizer prunes already; wrap its `base_optimizer` instead. "
                f"Received: optimizer={optimizer!r}"
            )
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`optimizer` must be a keras.optimizers.Optimizer. "
                f"Received: {optimizer!r} (of type {type(optimizer)})"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.base_optimizer = optimizer
        self.use_ema = optimizer.use_ema
        self.schedule = None if schedule is None else check_schedule(schedule)
        self.criterion = criterion or Magnitude()
        self.pattern = pattern or Unstructured()
        self.allocation = allocation or Uniform()
        self.regrowth, self.penalty = regrowth, penalty
        default = Setting(
            schedule, None, self.criterion, self.pattern, self.allocation, regrowth, penalty
        ).check()
        if schedule is None and layers is None:
            raise ValueError("Give a `schedule`, or `layers` with one for each.")
        if layers is not None and model is None:
            raise ValueError("`layers` needs `model`, the model whose layers they are.")
        self.plan: Any = ByName(default)
        if model is not None:
            check_model(model)
            self.plan = Given(selection.group(weights_of(model), default, layers, model))
        self._groups: list = []
        self._masks: list = []
        self.accumulators = Accumulators()
        self.fit = None  # The history of the `fit` that it was made in.
        self.installation = None

    @classmethod
    def by_plan(cls, optimizer: keras.optimizers.Optimizer, plan: Any) -> Self:
        """Wrap `optimizer` to prune by a `PruningPlan`, which is resolved at `build`."""
        wrapped = cls(optimizer, ConstantSparsity(0.0, 0))
        wrapped.schedule = None  # Each group has its own.
        wrapped.plan = plan
        return wrapped

    @tracking.untracked
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the masks of `variables`, and the wrapped optimizer's state."""
        if self.built:
            return
        if not self.base_optimizer.built:
            self.base_optimizer.build(variables)
        optimizers.train(self, variables)
        trained = optimizers.trained_variables(self)
        try:
            with backend.readable(trained) or contextlib.nullcontext():
                self._groups = self.plan.resolve(trained)
        except BaseException:  # An interrupt, too, leaves the model as it was.
            self.withdraw()
            raise
        # They hold the model, and the optimizers that were before.
        self.plan = self.installation = None
        if len(self._groups) == 1:
            setting = self._groups[0].setting
            self.schedule, self.criterion = setting.schedule, setting.criterion
            self.pattern, self.allocation = setting.pattern, setting.allocation
            self.regrowth, self.penalty = setting.regrowth, setting.penalty
        self._masks = [
            [self._add_mask(weight.variable) for weight in group.weights] for group in self._groups
        ]
        self.accumulators = Accumulators(self, self._groups, self.accumulators.values())
        for schedule in self._schedules():
            schedule.build()
        self.built = True
        scope = backend.readable(trained)
        if scope is not None:
            with scope:
                self.restore_masks()
        for group in self._groups:
            remember(group)
            for weight in group.weights:
                unwatch(weight.variable, ZEROS)

    def withdraw(self) -> None:
        """Leave the model that this was installed in as it was, if it is not built yet."""
        if self.installation is not None:
            self.installation.undo()

    def reschedule(self, groups: Any) -> None:
        """Go on by other schedules, masks as they are.

        Args:
            groups: the `Group`s that this prunes, in their order. The training step must be
                compiled again afterwards.
        """
        self._groups = list(groups)
        for group in groups:
            remember(group)

    def _add_mask(self, variable):
        return self.add_variable(
            shape=variable.shape,
            initializer="ones",
            dtype="bool",
            layout=optimizers.layout(variable),
            name=f"{variable.path.replace('/', '_')}_mask",
        )

    def restore_masks(self) -> None:
        """Take the masks up from the weights as they are, at the step that was reached.

        See `checkpoints.masks_of`.
        """
        step = backend.to_int(self.iterations)
        for group, masks in zip(self._groups, self._masks):
            kept = masks_of(group, step)
            backend.assign_masked([w.variable for w in group.weights], kept, masks)

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Update the weights with the wrapped optimizer, then prune.

        Args:
            grads: list of gradient tensors.
            trainable_variables: list of variables that match; may be left out once
                the optimizer is built.
        """
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                with keras.name_scope(self.name):
                    self.build(trainable_variables)
        variables = trainable_variables or optimizers.trained_variables(self)
        # A sum is a new tensor; the counter itself may be updated in place.
        before = backend.read(self.iterations) + 0
        if any(group.setting.needs_gradient for group in self._groups):
            grads = backend.mean_over_replicas(grads)
        try:
            self.accumulators.add(self, grads, variables)
            with held(ZEROS):
                self.base_optimizer.apply(
                    gradients.masked(self, grads, variables), trainable_variables
                )
            self._prune(before, grads, variables)
        except BaseException:
            # An interrupt in the middle of an eager update must not leave the weights half pruned.
            if self.built and backend.is_concrete():
                self.mask_weights()
            raise

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None,
    ) -> Any:
        """As `apply`, for tensors: `(trainable_variables, optimizer_variables)` of after it."""
        if not self.built:
            raise ValueError(
                "To call `stateless_apply`, the optimizer must be built: call "
                "`optimizer.build(model.trainable_variables)` first."
            )
        trained = optimizers.trained_variables(self)
        base, own = self.base_optimizer.variables, self._own_variables()
        base_values = optimizer_variables[: len(base)]
        known = [*base, *own, *trained]
        values = [*optimizer_variables, *(trainable_variables or [])]
        with keras.StatelessScope(state_mapping=list(zip(known, values))) as scope:
            before = backend.read(self.iterations)
            masked = gradients.masked(self, grads, trained)
            self.accumulators.add(self, list(grads), trained)
        own_values = [scope.get_current_value(v) for v in own]
        with held(ZEROS):
            trainable_variables, base_values = self.base_optimizer.stateless_apply(
                base_values, masked, trainable_variables
            )
        known = [*trained, *base, *own]
        values = [*trainable_variables, *base_values, *own_values]
        with keras.StatelessScope(state_mapping=list(zip(known, values))) as scope:
            self._prune(before, list(grads), trained)
        return (
            [scope.get_current_value(v) for v in trained],
            [scope.get_current_value(v) for v in self.variables],
        )

    def _prune(self, before, grads, trainable_variables):
        step = backend.read(self.iterations)
        for number, (group, masks) in enumerate(zip(self._groups, self._masks)):
            variables = [weight.variable for weight in group.weights]
            if not group.setting.asks:
                kept = [backend.read(mask) for mask in masks]
                backend.assign_masked(variables, kept)
                mask_averages(self.base_optimizer, variables, kept)
                continue
            update, sparsity = group.setting.schedule(step)
            # An update at step 0 is made at the first step there is.
            at_start = ops.logical_and(before == 0, group.setting.schedule(before)[0])
            # Nothing has changed while gradients accumulate, or after an overflow.
            update = ops.logical_and(step != before, ops.logical_or(update, at_start))
            found = gradients.of_group(self, group, grads, trainable_variables)
            regrowth = group.setting.regrowth
            options = {"accumulated": self.accumulators.read(number)}
            if group.setting.penalty is not None:
                penalize(self, group, step, step != before, update, found, **options)
            values = [backend.read(v) for v in variables]
            if regrowth is not None:
                options["exchanged"] = regrowth.share(step, group.setting.schedule)
                options["step"] = step
            kept = backend.cond(
                update,
                lambda g=group, v=values, s=sparsity, d=found, o=options: g.masks(v, s, d, **o),
                lambda m=masks: [backend.read(mask) for mask in m],
            )
            backend.assign_masked(variables, kept, masks)
            mask_averages(self.base_optimizer, variables, kept)
            if regrowth is not None:
                mask_slots(self.base_optimizer, variables, kept)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Let the wrapped optimizer set the final values, and mask them."""
        self.base_optimizer.finalize_variable_values(var_list)
        if not any(optimizer.use_ema for optimizer in chain(self.base_optimizer)):
            return  # Nothing has changed, and after an error on JAX there are no values to read.
        self.mask_weights()

    def mask_weights(self) -> None:
        """Write the zeros of the masks into the weights."""
        for group, masks in zip(self._groups, self._masks):
            variables = [weight.variable for weight in group.weights]
            backend.assign_masked(variables, [backend.read(m) for m in masks])

    def masks(self) -> Any:
        """Return the masks as a dict from each pruned variable's path to a bool variable."""
        return {
            weight.name: mask
            for group, masks in zip(self._groups, self._masks)
            for weight, mask in zip(group.weights, masks)
        }

    @property
    def groups(self) -> Any:
        """The `Group`s of weights that this prunes; empty before it is built."""
        return list(self._groups)

    @property
    def mask_variables(self) -> list[keras.Variable]:
        """The masks of the weights of all `groups`, in their order."""
        return [mask for masks in self._masks for mask in masks]

    def _schedules(self):
        found = {id(group.setting.schedule): group.setting.schedule for group in self._groups}
        return [schedule for schedule in found.values() if schedule is not None]

    def _own_variables(self):
        controls = [variable for one in self._schedules() for variable in one.variables]
        return [*self.mask_variables, *self.accumulators.own, *controls]

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.base_optimizer.variables, *self._own_variables()]

    @property
    def iterations(self) -> keras.Variable:
        return self.base_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.base_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.base_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss: Any) -> Tensor:
        """Scale the loss as the wrapped optimizer does."""
        return self.base_optimizer.scale_loss(loss)

    def load_own_variables(self, store: Any) -> None:
        """Load the wrapped optimizer's state, and take the masks up from the weights."""
        super().load_own_variables(store)
        if self.built:
            self.restore_masks()

    def __getattr__(self, name):
        # What the wrapped optimizer has and this has not, such as `beta_1`.
        if name.startswith("__") or "base_optimizer" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.base_optimizer, name)

    def get_config(self) -> dict[str, Any]:
        """Return the serializable arguments; `layers` and `model` are not among them."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "optimizer": serialize(self.base_optimizer),
            "schedule": serialize(self.schedule),
            "criterion": serialize(self.criterion),
            "pattern": serialize(self.pattern),
            "allocation": serialize(self.allocation),
            **({"regrowth": serialize(self.regrowth)} if self.regrowth is not None else {}),
            **({"penalty": serialize(self.penalty)} if self.penalty is not None else {}),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Make an optimizer from what `get_config` returned."""
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        return cls(**config)


legacy_h5.save_within(without(PruningOptimizer))
