"""Graphs that were once cut wrongly: what is cut is exact, what is not safe is frozen."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured.surgery import cut
from tests.helpers.masking import (
    choose,
    gone_of,
    graph_and_groups,
    mask,
    outputs,
    random_inputs,
    randomize,
)


def _model(shape, function, *more):
    inputs = keras.Input(shape)
    x = function(inputs)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _dense(units, **options):
    return layers.Dense(units, **options)


def _between(a, b):
    return ops.where(a > 0.5, b, 0.1 * b)


def _attend(x, **options):
    return layers.MultiHeadAttention(2, 4, **options)(x, x)


def _twice(layer, x, between=lambda x: x):
    return layer(between(layer(x)))


def _self_attention_twice(x):
    layer = layers.MultiHeadAttention(2, 4)
    x = x + layer(x, x)
    return x + layer(x, x)


def _shifted_tanh(x):
    return ops.tanh(x) + 1.0


EXACT = {
    "compared": ((4,), lambda i: _between(_dense(8)(i), _dense(8)(i))),
    "attention without a residual": ((5, 4), lambda i: _attend(_dense(8)(i))),
    "attention called twice": ((5, 4), lambda i: _self_attention_twice(_dense(8)(i))),
    "norm called twice": (
        (4,),
        lambda i: _twice(layers.RMSNormalization(), _dense(8)(i), lambda x: _dense(8)(ops.relu(x))),
    ),
    "own activation": ((4,), lambda i: _dense(8, activation=_shifted_tanh)(i)),
    "lambda activation": ((4,), lambda i: _dense(8, activation=lambda x: ops.tanh(x) - x)(i)),
    "norm of a time step": (
        (3, 6, 6, 2),
        lambda i: layers.TimeDistributed(layers.BatchNormalization(axis=3))(
            layers.TimeDistributed(layers.Conv2D(5, 3))(i)
        ),
    ),
    "rms norm of a time step": (
        (3, 4),
        lambda i: layers.TimeDistributed(layers.RMSNormalization())(_dense(6)(i)),
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXACT)
def test_cut_is_exact(name, seed):
    keras.utils.set_random_seed(0)
    model = _model(*EXACT[name])
    randomize(model)
    graph, groups = graph_and_groups(model)
    chosen = choose([g for g in groups if not g.frozen and not g.inexact], seed)
    chosen = [(g, gone) if gone.any() else (g, np.arange(g.channels) == 0) for g, gone in chosen]
    assert chosen
    mask(chosen)
    inputs = random_inputs(model)
    expected = outputs(model, inputs)
    for small in (cut(graph, gone_of(chosen)), kprune.shrink(model)):
        for a, b in zip(outputs(small, inputs), expected, strict=True):
            np.testing.assert_allclose(a, b, 1e-5, 1e-5)


FROZEN = {
    "take": (lambda x: ops.concatenate([ops.take(x, [0, 1], axis=-1), x], -1), (3, 4, 5, 32)),
    "every second": (lambda x: x[:, ::2], (3, 4, 5, 32)),
    "any": (
        lambda x: x * ops.cast(ops.any(x >= 0, -1, keepdims=True), "float32"),
        (3, 6, 32),
    ),
    "all": (lambda x: x * ops.cast(ops.all(x, -1, keepdims=True), "float32"), (3, 6, 32)),
    "constants": (lambda x: x * np.arange(x.shape[-1], dtype="float32"), (4, 32)),
    "noise shape": (lambda x: layers.Dropout(0.5, (None, x.shape[-1]))(x), (8,)),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_not_safe_is_frozen(name):
    function, sizes = FROZEN[name]
    for n in sizes:
        model = _model((4,), lambda i, n=n: function(_dense(n, name="made")(i)))
        groups = [g for g in kprune.channel_groups(model) if "made" in g.producers]
        assert groups
        assert all(group.frozen for group in groups), n


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x * ops.mean(x, (1, 2), keepdims=True) * 0 + ops.softmax(x, axis=-1),
        lambda x: x * np.arange(6, dtype="float32"),
        layers.PReLU(),
    ],
    ids=["mixes", "names channels", "has weights"],
)
def test_activations_that_are_not_safe(activation):
    model = _model((8, 8, 2), layers.Conv2D(6, 3, activation=activation, name="conv"))
    if isinstance(activation, layers.Layer):
        model(np.zeros((1, 8, 8, 2), "float32"))  # Only now does Keras build it on torch.
    (group,) = (g for g in kprune.channel_groups(model) if "conv" in g.producers)
    assert "its activation" in group.frozen[0]


def test_heads_whose_scores_are_returned_stay():
    inputs = keras.Input((5, 4))
    x = layers.Dense(8)(inputs)
    y, scores = layers.MultiHeadAttention(4, 4)(x, x, return_attention_scores=True)
    groups = list(kprune.channel_groups(keras.Model(inputs, [y, scores])))
    (heads,) = (g for g in groups if not g.counted)
    assert "scores" in heads.frozen[0]


def test_embedded_channels_stay():
    inputs = keras.Input((4,))
    numbers = ops.cast(layers.Dense(7, activation="relu", name="made")(inputs), "int32")
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Embedding(11, 6)(numbers))))
    (group,) = (g for g in kprune.channel_groups(model) if "made" in g.producers)
    assert "numbers of rows" in group.frozen[0]


def test_shrink_takes_nothing_for_constant_that_is_not():
    # A unit that was silent in shrink's own run once made others pass for dead.
    inputs = keras.Input((4,))
    single = layers.Dense(1, activation="relu", name="single")(inputs)
    x = layers.Dense(8, name="x")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(ops.relu(x) + single))
    randomize(model)
    for variable in model.get_layer("x").weights:
        value = np.array(ops.convert_to_numpy(variable))
        value[..., :3] = 0
        variable.assign(value)
    with pytest.raises(ValueError, match="nothing to shrink"):
        kprune.shrink(model)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_silent_recurrent_units(activation):
    inputs = keras.Input((5, 3))
    model = keras.Model(
        inputs, layers.Dense(2)(layers.SimpleRNN(4, activation=activation, name="rnn")(inputs))
    )
    randomize(model)
    cell = model.get_layer("rnn").cell
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        value = np.array(ops.convert_to_numpy(variable))
        value[..., 0] = 0
        variable.assign(value)
    if activation == "sigmoid":  # It emits one half, over and over, and has weights for it.
        with pytest.raises(ValueError, match="nothing to shrink"):
            kprune.shrink(model)
    else:
        assert kprune.shrink(model).get_layer("rnn").units == 3


def test_shrink_leaves_the_state_of_a_stateful_model():
    inputs = keras.Input(batch_shape=(3, 5, 2))
    rnn = layers.SimpleRNN(4, stateful=True, name="rnn")
    model = keras.Model(inputs, layers.Dense(2)(rnn(inputs)))
    randomize(model)
    cell = rnn.cell
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        value = np.array(ops.convert_to_numpy(variable))
        value[..., 0] = 0
        variable.assign(value)
    before = [ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    assert kprune.shrink(model).get_layer("rnn").units == 3
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
