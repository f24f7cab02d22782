"""The noise of weights, drawn at a layer's outputs instead, where it has less variance."""

import keras
from keras import ops

from kprune._keras.layers import copy_with_attributes
from kprune._keras.scope import ReplacedValues
from kprune.graphs.weights import is_builtin

# Layers that are one linear operation with one kernel, a bias and an activation.
_LINEAR = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_LEAST_VARIANCE = 1e-8  # The square root has a gradient then, also of inputs that are zero.


def is_linear(layer):
    """Whether noise on the kernel of a layer can be drawn at its outputs.

    Not where its class, or something that acts on it, has another `call` than Keras' own.
    """
    return (
        isinstance(layer, _LINEAR)
        and is_builtin(layer)
        and "call" not in vars(layer)
        and not getattr(layer, "lora_enabled", False)
    )


def standard_deviation(layer, kernel, variance, inputs):
    """Return the standard deviation of a linear layer's outputs, float32, before the activation.

    Args:
        layer: a layer that `is_linear`.
        kernel: its `keras.Variable`.
        variance: float32 tensor, that of each entry of the kernel.
        inputs: the layer's input.
    """
    plain = _copy(layer, activation=None, bias=None, use_bias=False)
    with ReplacedValues([kernel], [variance]):
        found = plain.call(ops.square(ops.cast(inputs, "float32")))
    # Fast convolutions may give a bit less than zero.
    return ops.sqrt(ops.relu(ops.cast(found, "float32")) + _LEAST_VARIANCE)


def with_noise(layer, noise):
    """Return a layer that computes as a linear one does, with noise before the activation.

    Its variables, losses and name are the layer's own.

    Args:
        layer: a layer that `is_linear`.
        noise: float32 tensor.
    """
    activation = layer.activation

    def noisy(outputs):
        outputs = ops.cast(ops.cast(outputs, "float32") + noise, outputs.dtype)
        return outputs if activation is None else activation(outputs)

    return _copy(layer, activation=noisy)


def _copy(layer, **changes):
    # A copy for one call: the layer may be used elsewhere, and in another thread, meanwhile.
    return copy_with_attributes(layer, {k: v for k, v in changes.items() if hasattr(layer, k)})
