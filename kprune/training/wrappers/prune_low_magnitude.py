"""TFMOT's way to prune a model: wrap its layers."""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from kprune._keras.opening_h5 import h5_scope
from kprune.pruning.schedules import PruningSchedule
from kprune.training.mechanism import register
from kprune.training.wrappers.prunable import prunable_weights, weights_are_known
from kprune.training.wrappers.pruning_wrapper import (
    DEFAULT_SCHEDULE,
    TFMOT_SCHEDULES,
    PruneLowMagnitude,
    wrappers_in,
)
from kprune.training.wrappers.wrapped_layers import WrappedLayers

# Built-in layers that have weights but no kernel, known before they are built.
_WITHOUT_KERNEL = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)


class PruningPolicy(abc.ABC):
    """Which layers `prune_low_magnitude` wraps: subclass it and write both methods.

    Example:

    ```python
    class OnlyConvolutions(kprune.PruningPolicy):
        def allow_pruning(self, layer):
            return isinstance(layer, keras.layers.Conv2D)

        def ensure_model_supports_pruning(self, model):
            if not any(self.allow_pruning(layer) for layer in model.layers):
                raise ValueError(f"{model.name!r} has no convolution.")


    model = kprune.prune_low_magnitude(model, pruning_policy=OnlyConvolutions())
    ```
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Return whether to wrap a layer of a list or model."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise ValueError if a model, as a whole, is not to be pruned."""


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = DEFAULT_SCHEDULE,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wrap a layer, or the layers of a model, so that they are pruned in training.

    In a model or a list, every layer with a kernel is wrapped, and all others are left as
    they are. A layer that is made of layers is wrapped as a whole. The layers and weights
    are those of the model that is passed. A Sequential or functional model comes back as
    a new one, nested models included, and must be compiled; a model of any other class
    changes in place: the layers in its attributes are replaced.

    Example:

    ```python
    schedule = kprune.PolynomialDecay(0.5, 0.9, begin_step=0, end_step=1000)
    model = kprune.prune_low_magnitude(model, pruning_schedule=schedule)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=10, callbacks=[kprune.UpdatePruningStep()])
    model = kprune.strip_pruning(model)
    ```

    Args:
        to_prune: a `keras.Layer`, a list of them, or a `keras.Model`.
        pruning_schedule: a `PruningSchedule`; half of the weights at once, by default.
        block_size: (input channels, output channels) of the blocks in which zeros come.
        block_pooling_type: "AVG" or "MAX", a block's score from those of its entries.
        pruning_policy: a `PruningPolicy`, or an object with its methods: which layers of a
            list or model to wrap.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive input channels.
        **kwargs: for a single layer, the arguments of `keras.Layer`; ignored otherwise, as
            TFMOT does.

    Returns:
        A `PruneLowMagnitude`, a list, or a model.

    Raises:
        ValueError: an argument out of its range; a layer, or a model, with nothing to
            prune; a model that cannot be changed. The model is left as it was.
        TypeError: an argument of the wrong kind.
    """
    arguments: dict[str, Any] = {
        "pruning_schedule": pruning_schedule,
        "block_size": block_size,
        "block_pooling_type": block_pooling_type,
        "sparsity_m_by_n": sparsity_m_by_n,
    }

    def wrap(layer):
        if pruning_policy is not None and not pruning_policy.allow_pruning(layer):
            return layer
        return _wrap_if_prunable(layer, arguments)

    if isinstance(to_prune, list | tuple):
        return [PRUNING_WRAPPERS.install(layer, wrap) for layer in to_prune]
    if isinstance(to_prune, keras.Model):
        if pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(to_prune)
        wrapped = PRUNING_WRAPPERS.install(to_prune, wrap)
        if not wrappers_in(wrapped):
            raise ValueError(f"The model {to_prune.name!r} has no layer with a weight to prune.")
        return wrapped
    return PruneLowMagnitude(to_prune, **arguments, **kwargs)


@contextlib.contextmanager
def prune_scope() -> Iterator[None]:
    """A scope to load wrapped models in, also `.h5` files that TFMOT wrote with Keras 2.

    What kprune has saved opens without it, once kprune is imported. Of a file of TFMOT's,
    weights, masks, thresholds and steps are taken over; layers that Keras 3 does not have
    stay unknown, and an optimizer of another make starts afresh.

    Example:

    ```python
    with kprune.prune_scope():
        model = keras.models.load_model("wrapped.h5")
    ```
    """
    known = {"PruneLowMagnitude": PruneLowMagnitude, **TFMOT_SCHEDULES}
    with keras.saving.custom_object_scope(known), h5_scope():
        yield


class PruningWrappers(WrappedLayers):
    """Layers wrapped in `PruneLowMagnitude`."""

    prunes = True
    wrapper = PruneLowMagnitude

    def describe(self, model):
        return [
            f"the layer {wrapper.layer.name!r} is wrapped in PruneLowMagnitude"
            for wrapper in self.found_in(model)
        ]

    def write(self, wrapper):
        wrapper.mask_weights()

    def release(self, wrapper):
        wrapper.release()

    def groups(self, model):
        return [group for wrapper in self.found_in(model) for group in wrapper.groups]

    def mask_weights(self, model):
        for wrapper in self.found_in(model):
            wrapper.mask_weights()


PRUNING_WRAPPERS = register(PruningWrappers())


def _wrap_if_prunable(layer, arguments):
    """The layer wrapped, if it has something to prune or may get it when it is built."""
    if wrappers_in(layer) or isinstance(layer, (keras.layers.InputLayer, *_WITHOUT_KERNEL)):
        return layer
    known = weights_are_known(layer)
    if known and not any(weight.variable.trainable for weight in prunable_weights(layer)):
        return layer
    wrapper = PruneLowMagnitude(layer, **arguments)
    wrapper.may_be_empty = True
    if known:
        wrapper.build()
    return wrapper
