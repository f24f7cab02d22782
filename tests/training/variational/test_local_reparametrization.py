"""The noise at a layer's outputs is that which noise on its weights gives."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.variational.local_reparametrization import (
    is_linear,
    standard_deviation,
    with_noise,
)

LINEAR = {
    "dense": (lambda: layers.Dense(3, activation="relu"), (4,)),
    "dense of a sequence": (lambda: layers.Dense(3), (2, 4)),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="e"), (2, 4)),
    "causal": (lambda: layers.Conv1D(3, 2, padding="causal", dilation_rate=2), (5, 2)),
    "groups": (lambda: layers.Conv2D(4, 3, strides=2, padding="same", groups=2), (5, 5, 2)),
    "conv3d": (lambda: layers.Conv3D(2, 2, activation="tanh"), (3, 3, 3, 2)),
    "transposed": (lambda: layers.Conv2DTranspose(3, 3, strides=2), (3, 3, 2)),
    "transposed1d": (lambda: layers.Conv1DTranspose(3, 2, padding="same"), (4, 2)),
    "transposed3d": (lambda: layers.Conv3DTranspose(2, 2), (2, 2, 2, 2)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (4, 4, 2)),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, strides=2), (7, 2)),
}


class Twice(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


def numpy(value):
    return ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(value)))


def made(name):
    if name == "groups" and keras.backend.backend() == "tensorflow":
        # The CPU kernel of TensorFlow has no groups outside of compiled functions.
        name = "conv2d"
    make, shape = {**LINEAR, "conv2d": (lambda: layers.Conv2D(3, 3, strides=2), (5, 5, 2))}[name]
    layer = make()
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer(x)
    layer.bias.assign(np.arange(layer.bias.shape[-1], dtype="float32").reshape(layer.bias.shape))
    return layer, x


def products(layer, x):
    """What each entry of the kernel adds to the outputs, times 1: [entries, *outputs]."""
    kernel, bias, activation = numpy(layer.kernel), numpy(layer.bias), layer.activation
    layer.bias.assign(np.zeros_like(bias))
    layer.activation = None
    found = []
    for entry in range(kernel.size):
        layer.kernel.assign(np.eye(1, kernel.size, entry, dtype="float32").reshape(kernel.shape))
        found.append(numpy(layer(x)))
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    layer.activation = activation
    return np.stack(found)


@pytest.mark.parametrize("name", LINEAR)
def test_the_deviation_is_that_of_a_sum_over_noisy_weights(name):
    layer, x = made(name)
    assert is_linear(layer)
    variance = np.random.default_rng(1).uniform(size=layer.kernel.shape).astype("float32")
    before = layer.activation, numpy(layer.bias), numpy(layer.kernel)
    found = standard_deviation(layer, layer.kernel, ops.convert_to_tensor(variance), x)
    expected = np.tensordot(variance.ravel(), products(layer, x) ** 2, 1)
    np.testing.assert_allclose(numpy(found) ** 2, expected + 1e-8, rtol=1e-4, atol=1e-6)
    assert layer.activation is before[0]
    np.testing.assert_array_equal(numpy(layer.bias), before[1])
    np.testing.assert_array_equal(numpy(layer.kernel), before[2])


@pytest.mark.parametrize("name", LINEAR)
def test_noise_comes_before_the_activation(name):
    layer, x = made(name)
    outputs = numpy(layer(x))
    noise = np.random.default_rng(1).normal(size=outputs.shape).astype("float32")
    found = numpy(with_noise(layer, ops.convert_to_tensor(noise))(x))
    activation, layer.activation = layer.activation, None
    expected = numpy(activation(ops.convert_to_tensor(numpy(layer(x)) + noise)))
    layer.activation = activation
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(numpy(layer(x)), outputs)


def test_other_layers_are_not_linear():
    others = [
        Twice(2),
        layers.SeparableConv2D(2, 3),
        layers.Embedding(3, 2),
        layers.LSTM(2),
        layers.TimeDistributed(layers.Dense(2)),
    ]
    assert not any(is_linear(layer) for layer in others)
    acted_on = layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), acted_on])
    kprune.training.fake_quantize(model)
    assert not is_linear(acted_on)
    kprune.training.remove_fake_quantization(model)
    assert is_linear(acted_on)
