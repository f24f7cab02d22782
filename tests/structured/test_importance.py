"""Scores of channels: by how near their filters are to the others."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.structured import GeometricMedian
from kprune.structured.gradients import scores_on_data
from kprune.structured.importance import channel_scores
from tests.helpers.masking import graph_and_groups, randomize


def _model(kind=layers.Conv2D):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = kind(6, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2D(4, 1, name="next")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("kind", [layers.Conv2D, layers.Conv2DTranspose])
def test_the_distances_are_those_of_the_filters(kind):
    model = _model(kind)
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)
    rows = np.moveaxis(kernel, -1 if kind is layers.Conv2D else -2, 0).reshape(6, -1)
    expected = np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(1)
    group = next(g for g in graph_and_groups(model)[1] if g.name == "conv")
    got = channel_scores(group, GeometricMedian(), keras.ops.convert_to_tensor)
    got = keras.ops.convert_to_numpy(got)
    np.testing.assert_allclose(got, expected / expected.mean(), 1e-4)


def test_what_others_replace_goes():
    """Though its filter is the largest of all."""
    model = _model()
    conv = model.get_layer("conv")
    kernel, bias = conv.get_weights()
    kernel[..., 1:4] = 5 * kernel.mean(axis=3, keepdims=True)
    conv.set_weights([kernel + 1e-3 * np.arange(6), bias])
    kept = {}
    for criterion in (GeometricMedian(), kprune.Magnitude()):
        small = kprune.prune_channels(
            model, channels=0.5, criterion=criterion, round_to=1,
            layers=["conv"], allocation=kprune.Uniform(),
        )  # fmt: skip
        new = small.get_layer("conv").get_weights()[0]
        places = [
            np.abs(conv.get_weights()[0] - new[..., i : i + 1]).sum((0, 1, 2)) for i in range(3)
        ]
        kept[type(criterion)] = {int(np.argmin(place)) for place in places}
    assert len(kept[kprune.Magnitude] & {1, 2, 3}) > 1
    assert kept[GeometricMedian] == {0, 4, 5}


def test_channels_of_several_positions():
    """Grouped convolutions tie filters: those of one channel are one row."""
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(8, 3, groups=2, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    small = kprune.prune_channels(model, channels=0.5, criterion=GeometricMedian(), round_to=1)
    assert small.get_layer("conv").filters == 4


def test_the_second_order_of_each_weight_on_data():
    """`Fisher` sums weight² x gradient² over a channel's weights, a gradient a batch of 32."""
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(1, name="out")(layers.Dense(6, name="dense")(inputs)))
    randomize(model)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(96, n)).astype("float32") for n in (5, 1))
    (kernel, bias), (out, last) = (layer.get_weights() for layer in model.layers[1:])
    squares = np.zeros(kernel.shape), np.zeros(out.shape)
    for a, b in zip(np.split(x, 3), np.split(y, 3)):  # The order does not matter to whole batches.
        hidden = a @ kernel + bias
        error = 2 * (hidden @ out + last - b) / 32
        squares[0][:] += (a.T @ (error @ out.T)) ** 2
        squares[1][:] += (hidden.T @ error) ** 2
    scores = (kernel**2 * squares[0]).sum(0), (out**2 * squares[1]).sum(1)
    expected = np.mean([score / score.mean() for score in scores], 0)
    graph, groups = graph_and_groups(model)
    batches = list(zip(np.split(x, 3), np.split(y, 3)))
    criterion = kprune.pruning.Fisher()
    scores_of = scores_on_data(graph, criterion, (batch for batch in batches), "mse")
    got = keras.ops.convert_to_numpy(channel_scores(groups[0], criterion, scores_of))
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_in_fit():
    model = _model()
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    pruning = kprune.Pruning(
        schedule=kprune.ConstantSparsity(0.5, begin_step=1, frequency=1),
        pattern=kprune.Channels(), criterion=GeometricMedian(),
    )  # fmt: skip
    model.fit(x, np.zeros((16, 2)), batch_size=8, epochs=2, verbose=0, callbacks=[pruning])
    small = kprune.shrink(kprune.strip_pruning(model))
    assert small.get_layer("conv").filters == 3


def test_single_weights_have_no_such_score():
    with pytest.raises(TypeError, match="scores whole channels"):
        kprune.Pruning(0.5, criterion=GeometricMedian())
