"""What a layer computes is its rows times its matrix, whatever kind of product it is."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.graphs.weights import weights_of
from kprune.oneshot.linear import linear_of

ALL = 10**9
KINDS = {
    "dense": (layers.Dense(5), (3, 4)),
    "einsum with heads": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (3, 4)
    ),
    "einsum over heads": (layers.EinsumDense("abde,dec->abc", (None, 4)), (3, 2, 5)),
    "einsum one by one": (layers.EinsumDense("abc,cd->acd", (4, 6)), (3, 4)),
    "einsum with groups": (layers.EinsumDense("abc,bcd->abd", (3, 6)), (3, 4)),
    "einsum with dots": (layers.EinsumDense("...a,ab->...b", 6), (3, 4)),
    "conv1d causal": (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)),
    "conv2d": (layers.Conv2D(6, (3, 2), strides=2, padding="same"), (7, 8, 4)),
    "conv2d dilated": (layers.Conv2D(6, 3, dilation_rate=2), (9, 8, 4)),
    "conv2d of groups": (layers.Conv2D(6, 3, groups=2), (7, 8, 4)),
    "conv3d": (layers.Conv3D(3, 2), (4, 5, 4, 2)),
    "depthwise1d": (layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"), (7, 4)),
    "depthwise2d": (layers.DepthwiseConv2D(3, strides=2, padding="same"), (8, 7, 4)),
    "transposed1d": (layers.Conv1DTranspose(5, 3, strides=2), (6, 4)),
    "transposed2d": (layers.Conv2DTranspose(5, 3, strides=2), (5, 6, 4)),
    "transposed3d": (layers.Conv3DTranspose(2, 2), (3, 4, 3, 3)),
}  # fmt: skip


def _input(shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")


def _computed(layer, x):
    return keras.ops.convert_to_numpy(layer(x))


@pytest.mark.parametrize("name", KINDS)
def test_rows_times_matrix(name):
    """Of the same numbers as the output; their order is the layer's own."""
    layer, shape = KINDS[name]
    layer = type(layer).from_config(layer.get_config())
    x = _input(shape)
    expected = _computed(layer, x)
    (weight,) = (weight for weight in weights_of(layer) if weight.is_kernel)
    linear = linear_of(weight)
    value = keras.ops.convert_to_numpy(weight.variable)
    matrix = linear.matrix(value)
    np.testing.assert_array_equal(linear.weight(matrix), value)
    rows = linear.rows(x, None, ALL)
    got = rows @ matrix
    np.testing.assert_allclose(np.sort(got.ravel()), np.sort(expected.ravel()), 1e-4, 1e-5)
    few = linear.rows(x, None, 5)
    assert few.shape == (len(rows), min(5, rows.shape[1]), rows.shape[2])
    known = {row.tobytes() for row in rows.swapaxes(0, 1)}
    assert {row.tobytes() for row in few.swapaxes(0, 1)} <= known


@pytest.mark.parametrize("kind", [layers.SeparableConv1D, layers.SeparableConv2D])
def test_separable_convolutions(kind):
    rank = 1 if kind is layers.SeparableConv1D else 2
    layer = kind(6, 3, depth_multiplier=2, padding="same")
    x = _input((7,) * rank + (4,))
    expected = _computed(layer, x)
    of = {weight.variable.name: linear_of(weight) for weight in weights_of(layer)}
    linear = of["pointwise_kernel"]
    rows = linear.rows(x, None, ALL)
    got = rows @ linear.matrix(keras.ops.convert_to_numpy(layer.pointwise_kernel))
    np.testing.assert_allclose(np.sort(got.ravel()), np.sort(expected.ravel()), 1e-4, 1e-5)
    depthwise = of["depthwise_kernel"]
    value = keras.ops.convert_to_numpy(layer.depthwise_kernel)
    between = depthwise.rows(x, None, ALL) @ depthwise.matrix(value)
    np.testing.assert_allclose(np.sort(between.ravel()), np.sort(rows.ravel()), 1e-4, 1e-5)


def test_states_of_recurrent_layers():
    layer = layers.SimpleRNN(5, activation="linear", use_bias=False)
    x = _input((6, 4))
    last = _computed(layer, x)
    of = {weight.variable.name: linear_of(weight) for weight in weights_of(layer)}
    assert all(linear.layer is layer for linear in of.values())
    states = of["recurrent_kernel"].rows(x, layer.call, ALL)[0].reshape(2, 5, 5)
    kernel, recurrent = layer.get_weights()
    inputs = of["kernel"].rows(x, layer.call, ALL)[0].reshape(2, 6, 4)
    np.testing.assert_allclose(states[:, -1] @ recurrent + inputs[:, -1] @ kernel, last, 1e-4, 1e-5)
    assert not layer.return_sequences


def test_a_layer_of_each_step():
    layer = layers.TimeDistributed(layers.Conv2D(3, 2))
    x = _input((4, 5, 5, 2))
    expected = _computed(layer, x)
    (weight,) = (weight for weight in weights_of(layer) if weight.is_kernel)
    linear = linear_of(weight)
    assert linear.layer is layer
    rows = linear.rows(x, None, ALL)
    got = rows @ linear.matrix(keras.ops.convert_to_numpy(weight.variable))
    np.testing.assert_allclose(np.sort(got.ravel()), np.sort(expected.ravel()), 1e-4, 1e-5)


def test_what_is_no_product():
    layer = layers.Embedding(5, 4)
    layer.build()
    (weight,) = weights_of(layer)
    assert linear_of(weight) is None
