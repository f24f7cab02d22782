"""Where labels go in operations without weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.structured.graph import ChannelGraph

CHANNELS = 6


def _followed(function, shape=(4, 4, CHANNELS)):
    """The axis and labels after a function of a tensor with channels 0 to 5, and the reasons."""
    inputs = keras.Input((*shape[:-1], 3))
    x = layers.Dense(shape[-1], name="dense")(inputs)
    outputs = function(x)
    graph = ChannelGraph(keras.Model(inputs, outputs))
    reasons = {reason for reasons in graph.labels.frozen().values() for reason in reasons}
    tensor = graph.tensors[id(outputs)]
    return tensor.axis, tensor.labels, reasons - {"an output of the model"}


STAY = list(range(CHANNELS))
MOVES = {
    "relu": (ops.relu, -1, STAY),
    "flatten": (layers.Flatten(), -1, STAY * 16),
    "transpose": (lambda x: ops.transpose(x, (0, 3, 1, 2)), -3, STAY),
    "permute": (layers.Permute((1, 3, 2)), -2, STAY),
    "reshape": (layers.Reshape((16, CHANNELS)), -1, STAY),
    "reshape with -1": (layers.Reshape((-1, CHANNELS)), -1, STAY),
    "reverse": (lambda x: ops.flip(x, axis=-1), -1, STAY[::-1]),
    "slice": (lambda x: x[..., 2:5], -1, [2, 3, 4]),
    "slice of places": (lambda x: x[:, 1:3], -1, STAY),
    "index of a place": (lambda x: x[:, 1], -1, STAY),
    "repeat": (lambda x: ops.repeat(x, 2, axis=-1), -1, np.repeat(STAY, 2)),
    "tile": (lambda x: ops.tile(x, (1, 1, 1, 2)), -1, STAY * 2),
    "concatenation": (lambda x: ops.concatenate([x[..., 3:], x], -1), -1, [3, 4, 5, *STAY]),
    "mean over places": (lambda x: ops.mean(x, (1, 2)), -1, STAY),
    "max pooling": (layers.MaxPooling2D(2), -1, STAY),
    "upsampling": (layers.UpSampling2D(2, interpolation="bilinear"), -1, STAY),
    "resize": (lambda x: ops.image.resize(x, (7, 7)), -1, STAY),
    "padding": (layers.ZeroPadding2D(1), -1, STAY),
    "cropping": (layers.Cropping2D(1), -1, STAY),
    "gate": (lambda x: x * ops.sigmoid(ops.mean(x, (1, 2), keepdims=True)), -1, STAY),
    "softmax over places": (layers.Softmax(axis=1), -1, STAY),
    "unit normalization of places": (layers.UnitNormalization(axis=1), -1, STAY),
    "constants beside it": (lambda x: x * 2.0 + ops.ones((4, 4, 1)), -1, STAY),
}


@pytest.mark.parametrize("name", MOVES)
def test_labels_are_followed(name):
    function, axis, labels = MOVES[name]
    got_axis, got, reasons = _followed(function)
    assert not reasons
    assert got_axis == axis
    np.testing.assert_array_equal(got, labels)


MIXES = {
    "softmax": layers.Softmax(),
    "maximum": lambda x: ops.max(x, axis=-1),
    "cumulative sum": lambda x: ops.cumsum(x, axis=-1),
    "normalization": layers.UnitNormalization(),
    "product of matrices": lambda x: ops.matmul(x, ops.ones((CHANNELS, 5))),
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "sort": lambda x: ops.sort(x, axis=-1),
}


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_channels_is_found_out(name):
    _, _, reasons = _followed(MIXES[name])
    assert len(reasons) == 1
    assert reasons.pop().endswith("mixes channels")


NUMBERS = {
    "constant for each channel": lambda x: x + np.arange(CHANNELS, dtype="float32"),
    "one channel by its number": lambda x: x[..., 1],
    "every other channel": lambda x: x[..., ::2],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_names_channels_stays(name):
    axis, labels, reasons = _followed(NUMBERS[name])
    assert axis is None
    assert labels is None
    assert len(reasons) == 1


def test_reshape_that_interleaves_ties_the_channels_that_meet():
    axis, labels, reasons = _followed(layers.Reshape((4, 4, 2, 3)))
    assert not reasons
    assert axis == -1
    assert len(np.unique(labels)) == 3


def test_reshape_across_channels_ties_those_that_meet_or_freezes_them():
    axis, labels, reasons = _followed(layers.Reshape((6, 10)), (5, 12))
    assert not reasons
    assert axis == -1
    np.testing.assert_array_equal(labels, np.tile(labels[:2], 5))
    assert labels[0] != labels[1]
    axis, _, reasons = _followed(layers.Reshape((12, 5)), (5, 12))
    assert axis is None
    assert len(reasons) == 1


def test_batch_axis_must_stay():
    _, _, reasons = _followed(lambda x: ops.reshape(x, (-1, CHANNELS)))
    assert len(reasons) == 1
    assert "changes the batch axis" in reasons.pop()
