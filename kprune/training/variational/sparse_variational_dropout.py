"""The function that wraps the layers of a model, and how they are unwrapped."""

import warnings
from typing import Any

import keras
from keras import ops

from kprune._keras.layers import flatten_layers
from kprune._keras.wrapper import ReplacingWrapper
from kprune.training.at_risk import watch_zeros
from kprune.training.mechanism import register
from kprune.training.variational.wrapper import (
    SparseVariationalDropout,
    check_arguments,
    noisy_layers_in,
)
from kprune.training.wrappers.prunable import prunable_weights, weights_are_known
from kprune.training.wrappers.wrapped_layers import WrappedLayers


def sparse_variational_dropout(
    to_sparsify: Any,
    threshold: float = 3.0,
    initial_log_sigma2: float = -10.0,
    kl_scale: float | None = None,
) -> Any:
    """Wrap the layers of a model, so that training finds out which weights are only noise.

    In a model or a list, every layer with a kernel is wrapped in `SparseVariationalDropout`, and
    all others are left as they are. The layers and weights are those of the model that is passed,
    trained or not. A Sequential or functional model comes back as a new one, nested models
    included, and must be compiled; a model of any other class changes in place. `fit` needs
    `KLWarmUp`, and `kprune.strip_pruning` gives a plain model with exact zeros.

    How sparse it gets comes from the data. For a sparsity of your choice, strip, and train on with
    `kprune.Pruning(sparsity)`; to train what is left, with `kprune.HoldZeros()`.

    Molchanov, Ashukha and Vetrov, "Variational dropout sparsifies deep neural networks" (2017).

    Example:

    ```python
    model = kprune.training.sparse_variational_dropout(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=100, callbacks=[kprune.training.KLWarmUp()])
    ```

    Args:
        to_sparsify: a `keras.Model`, a `keras.Layer`, or a list of layers.
        threshold: as of `SparseVariationalDropout`.
        initial_log_sigma2: as of `SparseVariationalDropout`.
        kl_scale: as of `SparseVariationalDropout`.

    Returns:
        A model, a `SparseVariationalDropout`, or a list.

    Raises:
        ValueError: an argument out of its range; a layer, or a model, without weights to prune; a
            model that cannot be changed. The model is left as it was.
        TypeError: not a Keras 3 layer, list or model.
    """
    check_arguments(threshold, initial_log_sigma2, kl_scale)
    arguments: dict[str, Any] = {
        "threshold": threshold,
        "initial_log_sigma2": initial_log_sigma2,
        "kl_scale": kl_scale,
    }

    def wrap(layer):
        return _wrap_if_prunable(layer, arguments)

    if isinstance(to_sparsify, list | tuple):
        return [NOISY_LAYERS.install(layer, wrap) for layer in to_sparsify]
    if not isinstance(to_sparsify, keras.Model):
        wrapper = SparseVariationalDropout(to_sparsify, **arguments)
        if weights_are_known(to_sparsify):
            wrapper.build()
        return wrapper
    wrapped = NOISY_LAYERS.install(to_sparsify, wrap)
    if not noisy_layers_in(wrapped):
        raise ValueError(f"The model {to_sparsify.name!r} has no layer with a weight to prune.")
    return wrapped


class NoisyLayers(WrappedLayers):
    """Layers wrapped in `SparseVariationalDropout`."""

    prunes = True
    wrapper = SparseVariationalDropout

    def describe(self, model):
        return [
            f"the layer {wrapper.layer.name!r} is wrapped in SparseVariationalDropout"
            for wrapper in self.found_in(model)
        ]

    def zeros_to_come(self, model):
        return sum(wrapper.count_noise() for wrapper in self.found_in(model))

    def write(self, wrapper):
        wrapper.mask_weights()
        empty = [v.path for v in wrapper.noisy_variables if not ops.any(v.value != 0)]
        if empty:
            warnings.warn(
                f"All weights of {', '.join(empty)} are noise, and zero now: the layer gives a "
                "constant. A lower `kl_weight` or a longer `warm_up` of KLWarmUp leaves more.",
                stacklevel=5,
            )

    def remove(self, model):
        variables = [v for wrapper in self.found_in(model) for v in wrapper.noisy_variables]
        plain = super().remove(model)
        if variables:
            watch_zeros(variables)
        return plain


NOISY_LAYERS = register(NoisyLayers())


def _wrap_if_prunable(layer, arguments):
    """The layer wrapped, if it has something to prune or may get it when it is built."""
    if isinstance(layer, keras.layers.InputLayer):
        return layer
    if any(isinstance(part, ReplacingWrapper) for part in flatten_layers(layer)):
        return layer
    known = weights_are_known(layer)
    if known and not any(weight.variable.trainable for weight in prunable_weights(layer)):
        return layer
    wrapper = SparseVariationalDropout(layer, **arguments)
    if known:
        wrapper.build()
    return wrapper
