"""A layer that prunes the layer it wraps: TFMOT's, on Keras 3."""

import warnings
from typing import Any, Self

import keras
from keras import ops

from kprune._keras import backend
from kprune._keras.layers import (
    flatten_layers,
    made_not_trainable,
)
from kprune._keras.opening_h5 import to_keras_3
from kprune._keras.scope import first_call_of_step
from kprune._keras.wrapper import ReplacingWrapper
from kprune._system.type_aliases import Tensor
from kprune.graphs.weights import (
    check_model,
    weights_of,
)
from kprune.pruning.groups import Group, Setting
from kprune.pruning.patterns import NM, Block, Unstructured
from kprune.pruning.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
    check_schedule,
)
from kprune.training.distill import Teacher
from kprune.training.requests import remember
from kprune.training.wrappers.prunable import (
    is_depthwise,
    nothing_to_prune,
    passes_through,
    prunable_weights,
    weights_are_known,
)

DEFAULT_SCHEDULE = ConstantSparsity(0.5, 0)
# What TFMOT's files call them: they say no module.
TFMOT_SCHEDULES = {
    "ConstantSparsity": ConstantSparsity,
    "PolynomialDecay": PolynomialDecay,
}


@keras.saving.register_keras_serializable(package="kprune")
class PruneLowMagnitude(ReplacingWrapper):
    """Prunes the kernels of the layer it wraps, the lowest magnitudes first.

    In the forward pass the layer works with zeros where the masks say so, and gradients
    do not reach what is masked. At each forward pass with `training=True` the step goes
    up by one, before the layer is called, and where the schedule says so the masks are
    computed again from the masked weights; a layer that is used several times in a model
    counts once. All of it happens inside the compiled training step. Masks and step are
    weights of the wrapper: they are saved with the model, and training goes on from them.
    A layer with nothing to prune (an activation, Flatten, BatchNormalization) can be
    wrapped, too, and works as without the wrapper.

    The zeros are in the weights themselves, too, after every epoch with
    `UpdatePruningStep`, in every file that the model is saved to, and after
    `kprune.strip_pruning`.

    Zhu and Gupta, "To prune, or not to prune" (2017); the API is that of TensorFlow Model
    Optimization.

    Example:

    ```python
    model = keras.Sequential(
        [
            keras.Input((784,)),
            kprune.PruneLowMagnitude(keras.layers.Dense(300, activation="relu")),
            keras.layers.Dense(10),
        ]
    )
    ```

    Args:
        layer: the `keras.Layer` to prune, built or not.
        pruning_schedule: a `PruningSchedule`, whose steps are training steps of this
            wrapper, the first being 1.
        block_size: (input channels, output channels) of the blocks in which zeros come.
        block_pooling_type: "AVG" or "MAX", a block's score from those of its entries.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive input channels, such as
            (2, 4). Zeros appear along the schedule, up to m / n, by default at once.
        **kwargs: those of `keras.Layer`.

    Raises:
        ValueError: an argument out of its range, or a layer of your own with weights of which
            none is known to be prunable.
        TypeError: `layer` or `pruning_schedule` is of the wrong kind.
    """

    def __init__(
        self,
        layer: keras.Layer,
        pruning_schedule: PruningSchedule = DEFAULT_SCHEDULE,
        block_size: tuple[int, int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_layer(layer)
        kwargs.setdefault("name", f"prune_low_magnitude_{layer.name}")
        super().__init__(layer, **kwargs)
        pattern = _pattern(block_size, block_pooling_type, sparsity_m_by_n)
        self.block_size = tuple(block_size)
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = None if sparsity_m_by_n is None else tuple(sparsity_m_by_n)
        if pruning_schedule is DEFAULT_SCHEDULE and isinstance(pattern, NM):
            pruning_schedule = ConstantSparsity(1 - pattern.n / pattern.m, 0)
        self.pruning_schedule = check_schedule(pruning_schedule)
        self._setting = Setting(pruning_schedule, None, pattern=pattern)
        _warn_if_above(pattern, pruning_schedule)
        self._group: Any = None  # A `Group`, once it is built.
        self.may_be_empty = False
        self._prunes_depthwise = True
        if not hasattr(layer, "get_prunable_weights"):  # TFMOT's wrapper adds it, too.
            layer.get_prunable_weights = _PrunableWeights(layer)

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Build the wrapped layer, if it is not, and the masks of its kernels."""
        if self._group is not None:
            return
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        found = prunable_weights(self.layer)
        if not self._prunes_depthwise:
            found = [weight for weight in found if not is_depthwise(weight)]
        if not found and not self.may_be_empty and not passes_through(self.layer):
            raise nothing_to_prune(self.layer)
        for weight in found:
            self._setting.pattern.check(tuple(weight.variable.shape), weight.axes, weight.name)
        self._group = Group(self._setting, tuple(found))
        self._masks, self._thresholds = [], []
        for weight in found:
            shape = weight.variable.shape
            self._masks.append(self._add_state("mask", shape, "bool", "ones"))
            self._thresholds.append(self._add_state("threshold", (), "float32", "zeros"))
        # -1 until the first training step, as in TFMOT and its files.
        before = keras.initializers.Constant(-1)
        self.pruning_step = self._add_state("pruning_step", (), "int", before)
        remember(self._group)

    def _add_state(self, name, shape, dtype, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            # The same on all replicas, as the weights that it comes from are.
            aggregation="only_first_replica",
        )

    def _call(self, *args, **kwargs):
        if kwargs.get("training") and first_call_of_step(self):
            self._advance()
        return super()._call(*args, **kwargs)

    def replaced_values(self) -> tuple[list[keras.Variable], list[Tensor]]:
        """Return the pruned weights, and their values with the masks applied."""
        return [weight.variable for weight in self._group.weights], self._masked_values()

    def _masked_values(self):
        return [
            backend.apply_mask(weight.variable, ops.convert_to_tensor(mask))
            for weight, mask in zip(self._group.weights, self._masks)
        ]

    def _advance(self):
        """Make a step: compute new masks where the schedule says so."""
        step = ops.maximum(ops.convert_to_tensor(self.pruning_step), 0) + 1
        update, sparsity = self.pruning_schedule(step)
        # An update at step 0 is made at the first step there is.
        at_start = ops.logical_and(step == 1, self.pruning_schedule(step - 1)[0])
        state = [*self._masks, *self._thresholds]
        values = [ops.stop_gradient(value) for value in self._masked_values()]
        new = backend.cond(
            ops.logical_or(update, at_start),
            lambda: self._new_state(values, sparsity),
            lambda: [ops.convert_to_tensor(variable) for variable in state],
        )
        self.pruning_step.assign(step)
        for variable, value in zip(state, new):
            variable.assign(value)

    def _new_state(self, values, sparsity):
        masks = self._group.masks(values, sparsity)
        weights = self._group.weights
        thresholds = [self._threshold(*each) for each in zip(weights, values, masks)]
        return [*masks, *thresholds]

    def _threshold(self, weight, value, mask):
        """The lowest score that is kept of those that compete; 0 where none is left to."""
        pattern, shape = self._setting.pattern, tuple(weight.variable.shape)
        scores = pattern.units(self._setting.criterion(value), weight.axes)
        scores = ops.cast(pattern.expand(scores, shape, weight.axes), "float32")
        lowest = ops.min(ops.where(mask, scores, float("inf")))
        return ops.where(ops.isfinite(lowest), lowest, 0.0)

    def mask_weights(self) -> None:
        """Write the zeros of the masks into the weights themselves."""
        if self._group is not None:
            for weight, value in zip(self._group.weights, self._masked_values()):
                weight.variable.assign(value)

    @property
    def groups(self) -> list[Any]:
        """List of the `Group` of weights that it prunes; empty before it is built."""
        return [] if self._group is None else [self._group]

    @property
    def pruning_vars(self) -> list[tuple[keras.Variable, keras.Variable, keras.Variable]]:
        """List of (weight, mask, threshold), variables all; empty before it is built."""
        if self._group is None:
            return []
        variables = [weight.variable for weight in self._group.weights]
        return list(zip(variables, self._masks, self._thresholds))

    @property
    def variables(self) -> list[keras.Variable]:
        """The wrapped layer's variables, then masks, thresholds and step: TFMOT's order."""
        return [*self.layer.variables, *made_not_trainable(self)]

    @property
    def weights(self) -> list[keras.Variable]:
        """As `variables`, without the state of random numbers."""
        return [*self.layer.weights, *made_not_trainable(self)]

    def release(self) -> keras.Layer:
        """Take from the wrapped layer what the wrapper has added to it."""
        if isinstance(getattr(self.layer, "get_prunable_weights", None), _PrunableWeights):
            del self.layer.get_prunable_weights

    def save_own_variables(self, store: Any) -> None:
        """Save masks and step; the wrapped layer, saved after it, has exact zeros."""
        self.mask_weights()
        super().save_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Return all arguments, serializable."""
        config = {
            **super().get_config(),
            "pruning_schedule": keras.saving.serialize_keras_object(self.pruning_schedule),
            "block_size": self.block_size,
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": self.sparsity_m_by_n,
        }
        if not self._prunes_depthwise:
            config["prunes_depthwise"] = False
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Make a wrapper from what `get_config` returned, here or in TFMOT."""
        config = dict(config)
        config["layer"] = to_keras_3(config["layer"])
        # TFMOT, whose files lack the argument, has no masks of depthwise kernels.
        prunes_depthwise = config.pop("prunes_depthwise", "sparsity_m_by_n" in config)
        known = {**TFMOT_SCHEDULES, **(custom_objects or {})}
        for name in ("layer", "pruning_schedule"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=known)
        wrapper = cls(**config)
        wrapper.may_be_empty = True
        wrapper._prunes_depthwise = prunes_depthwise
        return wrapper


class _PrunableWeights:
    """The method `get_prunable_weights` that a wrapped layer gets if it has none."""

    of_wrapper = True

    def __init__(self, layer):
        self._layer = layer

    def __call__(self):
        return [weight.variable for weight in prunable_weights(self._layer)]


def wrappers_in(layer):
    """Return the `PruneLowMagnitude`s in a layer or model, itself included."""
    return [part for part in flatten_layers(layer) if isinstance(part, PruneLowMagnitude)]


def weights_that_stay(model):
    """Return the `Weight`s that a model is left with: not those of wrappers and teachers."""
    return [
        weight
        for weight in weights_of(model)
        if not isinstance(weight.layer, ReplacingWrapper)
        and not any(isinstance(layer, Teacher) for layer in weight.parents)
    ]


def _check_layer(layer):
    if not isinstance(layer, keras.Layer):
        check_model(layer)
    if isinstance(layer, keras.Model):
        raise TypeError(
            "PruneLowMagnitude wraps a layer; wrap a model with `kprune.prune_low_magnitude`. "
            f"Received: {layer!r}"
        )
    if wrappers_in(layer):
        raise ValueError(f"The layer {layer.name!r} is wrapped already. Received: {layer!r}")
    if weights_are_known(layer) and not prunable_weights(layer) and not passes_through(layer):
        raise nothing_to_prune(layer)


def _pattern(block_size, pooling, m_by_n):
    block = Block(block_size, pooling)
    if m_by_n is None:
        return Unstructured() if block.shape == (1, 1) else block
    if block.shape != (1, 1):
        raise ValueError(
            "Give a `block_size` or a `sparsity_m_by_n`, not both. "
            f"Received: block_size={block_size!r}, sparsity_m_by_n={m_by_n!r}"
        )
    two = isinstance(m_by_n, tuple | list) and len(m_by_n) == 2
    if (
        not two
        or not all(isinstance(side, int) for side in m_by_n)
        or not 0 < m_by_n[0] < m_by_n[1]
    ):
        raise ValueError(
            "`sparsity_m_by_n` must be two integers, m zeros in every n, with 0 < m < n, such as "
            f"(2, 4). Received: sparsity_m_by_n={m_by_n!r}"
        )
    zeros, of = m_by_n
    return NM(of - zeros, of)


def _warn_if_above(pattern, schedule):
    if not isinstance(pattern, NM) or schedule.final_sparsity is None:
        return
    most = 1 - pattern.n / pattern.m
    if schedule.final_sparsity > most + 1e-9:
        warnings.warn(
            f"{pattern.m - pattern.n} zeros in every {pattern.m} are a sparsity of {most:g}, which "
            f"is where this schedule for {schedule.final_sparsity:g} will stop.",
            stacklevel=3,
        )
