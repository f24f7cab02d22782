"""Wrapped layers of every kind compute what the layers do."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import backend
from tests.helpers.wrapped import (
    NOW,
    Block,
    expected_zeros,
    numpy,
    steps,
    zeros,
)


def _sequence(features=6):
    return keras.Input((5, features))


LAYERS = {
    "Dense": (lambda: keras.Input((6,)), lambda: layers.Dense(7, activity_regularizer="l2")),
    "EinsumDense": (_sequence, lambda: layers.EinsumDense("abc,cde->abde", (5, 3, 4))),
    "Conv1D": (_sequence, lambda: layers.Conv1D(4, 3)),
    "Conv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.Conv2D(5, 3)),
    "Conv3D": (lambda: keras.Input((4, 4, 4, 2)), lambda: layers.Conv3D(3, 2)),
    "Conv1DTranspose": (_sequence, lambda: layers.Conv1DTranspose(4, 3)),
    "Conv2DTranspose": (lambda: keras.Input((4, 4, 3)), lambda: layers.Conv2DTranspose(5, 3)),
    "DepthwiseConv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.DepthwiseConv2D(3)),
    "SeparableConv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.SeparableConv2D(5, 3)),
    "LSTM": (_sequence, lambda: layers.LSTM(4, dropout=0.2, recurrent_dropout=0.2)),
    "GRU": (_sequence, lambda: layers.GRU(4, return_sequences=True)),
    "SimpleRNN": (_sequence, lambda: layers.SimpleRNN(4)),
    "Bidirectional": (_sequence, lambda: layers.Bidirectional(layers.LSTM(3))),
    "TimeDistributed": (_sequence, lambda: layers.TimeDistributed(layers.Dense(3))),
    "RNN": (_sequence, lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)])),
}


def kind_of_layer(kind):
    make_input, make = LAYERS[kind]
    inputs = make_input()
    layer = make()
    wrapper = kprune.prune_low_magnitude(layer, NOW)
    x = np.random.default_rng(0).normal(size=(8, *inputs.shape[1:])).astype("float32")
    return x, layer, keras.Model(inputs, wrapper(inputs))


# One op at a time, as here, JAX takes seconds a layer, and the kinds differ no more for it.
KINDS = ["Dense", "EinsumDense", "SeparableConv2D", "LSTM"] if backend() == "jax" else list(LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind(kind):
    x, layer, model = kind_of_layer(kind)
    np.testing.assert_allclose(numpy(model(x)), numpy(layer(x)), rtol=1e-5, atol=1e-6)
    model(x, training=True)
    masked = [masked for _, masked in zeros(model)]
    assert masked == [expected for expected, _ in expected_zeros(model, 0.6)]
    assert len(masked) == len([v for v in layer.trainable_variables if "kernel" in v.name]) > 0
    pruned = numpy(model(x))
    assert kprune.strip_pruning(wrappers_in(model)[0]) is layer
    assert [zero for zero, _ in zeros(model)] == masked
    np.testing.assert_allclose(numpy(layer(x)), pruned, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SeparableConv2D", "LSTM"])
def test_layers_of_several_kinds_in_fit(kind):
    x, _, model = kind_of_layer(kind)
    model.compile("adam", "mse")
    y = np.zeros((8, *model.output_shape[1:]))
    model.fit(x, y, 4, epochs=2, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert zeros(model) == expected_zeros(model, 0.6)
    assert steps(model) == {4}


def test_masks_reach_and_leave_wrapped_layers():
    def build(wrap):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((7,), dtype="int32")
        x = wrap(layers.Embedding(11, 4, mask_zero=True))(inputs)
        x = wrap(layers.MultiHeadAttention(2, 3))(x, x, use_causal_mask=True)
        return keras.Model(inputs, wrap(layers.LSTM(6))(x))

    x = np.random.default_rng(0).integers(0, 11, (4, 7))
    x[:, 4:] = 0
    plain, wrapped = build(lambda layer: layer), build(kprune.prune_low_magnitude)
    np.testing.assert_allclose(numpy(wrapped(x)), numpy(plain(x)), rtol=1e-5, atol=1e-6)
    trained = numpy(wrapped(x, training=True))
    assert all(
        pruned == count
        for (_, pruned), (_, count) in zip(
            zeros(wrapped), [expected for expected in expected_zeros(wrapped, 0.5)]
        )
    )
    assert not np.allclose(trained, numpy(plain(x)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_calls_with_several_arguments():
    query, value = keras.Input((3, 8)), keras.Input((5, 8))
    attention = kprune.prune_low_magnitude(layers.GroupQueryAttention(4, 4, 2))
    attended = attention(query=query, value=value, attention_mask=None)
    gru = kprune.prune_low_magnitude(layers.GRU(8, return_state=True))
    out, state = gru(attended, initial_state=layers.GlobalAveragePooling1D()(value))
    model = keras.Model([query, value], [out, state])
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(4, *shape)).astype("float32") for shape in ((3, 8), (5, 8))]
    model.compile("sgd", "mse")
    model.fit(x, [np.zeros((4, 8))] * 2, verbose=0)
    assert len(zeros(model)) == 6
    assert [m for _, m in zeros(model)] == [m for _, m in expected_zeros(model, 0.5)]
    stripped = kprune.strip_pruning(model)
    for a, b in zip(model.predict(x, verbose=0), stripped.predict(x, verbose=0)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_shared_layer_makes_one_step():
    shared = kprune.prune_low_magnitude(layers.Dense(8, name="shared"), NOW)
    inputs = keras.Input((8,))
    once = keras.Model(inputs, shared(shared(shared(inputs))))
    once.compile("sgd", "mse")
    x = np.ones((32, 8), "float32")
    once.fit(x, x, 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert steps(once) == {4}
    assert zeros(once) == expected_zeros(once, 0.6)


@pytest.mark.slow
def test_statistics_random_numbers_and_losses_pass_through():
    block = Block()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, kprune.prune_low_magnitude(block, NOW)(inputs))
    x = np.random.default_rng(0).normal(3, 1, (16, 8)).astype("float32")
    first, second = numpy(model(x, training=True)), numpy(model(x, training=True))
    assert not np.array_equal(first, second)
    assert np.abs(numpy(block.norm.moving_mean)).max() > 0.1
    assert len(model.losses) == 1
    assert float(numpy(model.losses[0])) > 0
    np.testing.assert_array_equal(numpy(model(x)), numpy(model(x)))

    model.compile("sgd", "mse")
    before = numpy(block.norm.moving_mean).copy()
    loss = model.fit(x, 0 * x, verbose=0).history["loss"][0]
    assert not np.array_equal(numpy(block.norm.moving_mean), before)
    assert steps(model) == {3}
    error = float(np.mean(np.square(model.predict(x, verbose=0))))
    assert loss > 1.01 * error or loss < 0.99 * error  # The added loss is in it.
    total = model.evaluate(x, 0 * x, verbose=0)
    own = float(numpy(ops.mean(ops.square(block.norm(masked_inside(model, block, x))))))
    error = float(np.mean(np.square(model.predict(x, verbose=0))))
    np.testing.assert_allclose(total, error + own, rtol=1e-4)


def masked_inside(model, block, x):
    (wrapper,) = wrappers_in(model)
    kernel, mask, _ = wrapper.pruning_vars[0]
    assert kernel is block.inside.kernel
    return x @ (numpy(kernel) * numpy(mask)) + numpy(block.inside.bias)
