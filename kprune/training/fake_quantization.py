"""Fake quantization: the forward pass rounds as the 8-bit file will."""

from typing import Any

import keras
from keras import ops, tree

from kprune._keras import backend, methods
from kprune._keras.layers import flatten_layers, sublayers
from kprune._keras.scope import ReplacedValues
from kprune.graphs.weights import Weight, check_model, einsum_axes, weights_of
from kprune.pruning import selection
from kprune.training.mechanism import Mechanism, register

_WEIGHT_LEVELS = 127  # On either side of zero: 8 bits, symmetric, so that zero is exact.
_ACTIVATION_LEVELS = 255
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# Besides layers with kernels, what has an 8-bit kernel of its own: it rescales its inputs.
_RESCALING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Dot,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)


def fake_quantize(model: keras.Model, activations: bool = True, layers: Any = None) -> None:
    """Let a built model compute as an int8 file would, until `remove_fake_quantization`.

    For training loops of your own, and to `evaluate` a model as if it were in 8 bits.

    Example:

    ```python
    kprune.training.fake_quantize(model)
    model.evaluate(x_test, y_test)
    kprune.training.remove_fake_quantization(model)
    ```

    Args:
        model: a built `keras.Model`.
        activations: as of `QuantizationAware`.
        layers: as of `QuantizationAware`.

    Raises:
        ValueError: the model has no kernels, or is fake-quantized already, or `layers` matches
            nothing.
    """
    check_model(model)
    FAKE_QUANTIZATION.install(model, activations, layers)


def remove_fake_quantization(model: keras.Model) -> bool:
    """Let a model compute in float again; return whether it did not."""
    patched = _patched(model)
    for layer, name in patched:
        methods.restore_method(layer, name)
    if patched:
        backend.forget_compiled(model)
    return bool(patched)


class FakeQuantization(Mechanism):
    """Layers whose `call` rounds kernels and inputs, and steps compiled again with them."""

    def install(self, model, activations, layers):
        _patch_layers(model, activations, layers)

    def describe(self, model):
        if not _patched(model):
            return []
        return [f"{model.name!r} computes in 8 bits (QuantizationAware, in a `fit` cut short)"]

    def remove(self, model):
        remove_fake_quantization(model)
        return model


FAKE_QUANTIZATION = register(FakeQuantization())


def _patch_layers(model, activations, layers):
    if _patched(model):
        raise ValueError(f"The model {model.name!r} is fake-quantized already.")
    found = weights_of(model)
    kernels = [weight for weight in found if weight.is_kernel]
    if not kernels:
        raise ValueError(f"The model {model.name!r} has no kernels to quantize.")
    rescaling = _rescaling(model) if activations else []
    by_layer = {}
    for chosen in selection.choose([*kernels, *rescaling], layers):
        layer = _called(chosen)
        by_layer.setdefault(id(layer), (layer, []))[1].append(chosen)
    for layer, weights in by_layer.values():
        own = [weight for weight in weights if weight.variable is not None]
        methods.replace_method(layer, "call", _Rounding(layer, own, inputs=activations))
    for name in backend.steps_to_renew():
        methods.replace_method(model, name, lambda step, *args, **kwargs: step(*args, **kwargs))
    backend.forget_compiled(model)


def round_weight(value, channels):
    """Round a kernel to 8 bits, symmetric around zero, with a scale for each channel.

    Args:
        value: float tensor.
        channels: tuple of ints, the axes that have scales of their own.

    Returns:
        A tensor of the same shape and type; gradients go straight through.
    """
    x = ops.cast(value, "float32")
    others = [axis for axis in range(len(x.shape)) if axis not in channels]
    scale = ops.max(ops.abs(x), axis=others, keepdims=True) / _WEIGHT_LEVELS
    rounded = ops.round(x / ops.where(scale > 0, scale, 1.0)) * scale
    return _straight_through(value, rounded)


def round_activation(value):
    """Round a tensor to 8 bits, over the range of its values and zero; gradients go through."""
    x = ops.cast(value, "float32")
    low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
    scale = (high - low) / _ACTIVATION_LEVELS
    scale = ops.where(scale > 0, scale, 1.0)
    zero = ops.round(-low / scale)
    codes = ops.clip(ops.round(x / scale) + zero, 0, _ACTIVATION_LEVELS)
    return _straight_through(value, (codes - zero) * scale)


def _straight_through(value, rounded):
    return value + ops.stop_gradient(ops.cast(rounded, value.dtype) - value)


class _Rounding:
    """What the `call` of a layer becomes: it rounds the kernels, and the inputs if asked to."""

    def __init__(self, layer, weights=(), inputs=False):
        self.layer, self.inputs = layer, inputs
        self.variables = [weight.variable for weight in weights]
        self.channels = [_channels(weight) for weight in weights]

    def __call__(self, call, *args, **kwargs):
        if self.inputs:
            args, kwargs = tree.map_structure(_rounded_if_float, (args, kwargs))
        read = [backend.read(variable) for variable in self.variables]
        values = [
            round_weight(value, channels) if channels else round_activation(value)
            for value, channels in zip(read, self.channels)
        ]
        with ReplacedValues(self.variables, values) as scope:
            outputs = call(*args, **kwargs)
        for loss in scope.own_losses:
            self.layer.add_loss(loss)
        return outputs


def _rounded_if_float(value):
    if hasattr(value, "dtype") and keras.backend.is_float_dtype(value.dtype):
        return round_activation(value)
    return value


def _rescaling(model):
    """Return a `Weight` without a variable for each layer that rescales its inputs."""
    found, seen = [], set()

    def visit(layer, parents):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, _RESCALING):
            found.append(Weight(None, layer, layer.name, parents=parents))
        for child in sublayers(layer):
            visit(child, (*parents, child))

    visit(model, () if isinstance(model, keras.Model) else (model,))
    return found


def _called(weight):
    """The layer whose call uses a weight: an RNN, which may not call its cells."""
    recurrent = [layer for layer in weight.parents if isinstance(layer, keras.layers.RNN)]
    return recurrent[0] if recurrent else weight.layer


def _channels(weight):
    """The axes of a kernel along which TFLite has scales; none where it is as an activation."""
    rank = len(weight.variable.shape)
    layer = weight.layer
    if isinstance(layer, keras.layers.Embedding):
        axes = ()
    elif isinstance(layer, keras.layers.EinsumDense):
        _, axes = einsum_axes(layer.equation, rank)
    elif weight.variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        axes = (-2, -1)
    else:
        axes = (weight.axes[1],)
    return tuple(axis % rank for axis in axes)


def _patched(model):
    return [
        (layer, name)
        for layer in flatten_layers(model)
        for name in ("call", *backend.steps_to_renew())
        if methods.is_replaced(layer, name)
    ]
