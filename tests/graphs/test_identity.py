"""What is known of one operation is believed of another only if it computes the same."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.identity import identity_of
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


def _gate(mixing):
    def gate(x):
        return x * ops.mean(x, axis=-1, keepdims=True) if mixing else ops.tanh(x) - x

    return gate


class _Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return ops.tanh(x) * self.factor

    def scaled(self, x):
        return x * self.factor


def relu(x):
    """A function that Keras takes for its own, by its name."""
    return ops.tanh(x) - x


_SOFTMAX = functools.partial(ops.softmax, axis=-1)
_LEAKY = functools.partial(ops.leaky_relu, negative_slope=0.5)


def _dense(x, name, activation=None):
    return layers.Dense(7, activation, name=name)(x)


def _shuffle(x, groups=2):
    h, w, c = x.shape[1:]
    x = ops.reshape(x, (-1, h, w, groups, c // groups))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, h, w, c))


def _shuffled_twice(x):
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(x)
    for name in "bc":
        kept, y = ops.split(x, 2, axis=-1)
        y = layers.Conv2D(4, 3, padding="same", activation="relu", name=name)(y)
        x = _shuffle(ops.concatenate([kept, y], axis=-1))
    return layers.GlobalAveragePooling2D()(x)


def _two_axes(x):
    x = layers.Dense(5, name="a")(x)
    return ops.concatenate([ops.mean(x, 1), ops.mean(ops.transpose(x, (0, 2, 1)), 1)])


def _lambdas(x):
    x = layers.Lambda(lambda t: t * 2.0)(_dense(x, "a"))
    return layers.Lambda(lambda t, k: ops.softmax(t) * k, arguments={"k": 3.0})(_dense(x, "b"))


# From a name to the input's shape, a function of it, and whether the channels of `a` and `b` go.
OPERATIONS = {
    "closures": ((6,), lambda x: _dense(_dense(x, "a", _gate(False)), "b", _gate(True)), "a"),
    "the other way": ((6,), lambda x: _dense(_dense(x, "b", _gate(True)), "a", _gate(False)), "a"),
    "activation layers": (
        (6,),
        lambda x: layers.Activation(_gate(True))(
            _dense(layers.Activation(_gate(False))(_dense(x, "a")), "b")
        ),
        "a",
    ),
    "partial": ((6,), lambda x: _dense(_dense(x, "b", _SOFTMAX), "a", _LEAKY), "a"),
    "bound methods": (
        (6,),
        lambda x: _dense(_dense(x, "a", _Scale(2.0).scaled), "b", _Scale(5.0).scaled),
        "ab",
    ),
    "callables": ((6,), lambda x: _dense(_dense(x, "a", _Scale(2.0)), "b", _Scale(5.0)), "ab"),
    "name of Keras'": ((6,), lambda x: _dense(_dense(x, "a", relu), "b", "relu"), "ab"),
    "lambdas": ((6,), _lambdas, ""),
    "inside a recurrent layer": (
        (4, 6),
        lambda x: layers.LSTM(5, activation=lambda t: ops.tanh(t) / 2)(_dense(x, "a", relu)),
        "a",
    ),
    "inside TimeDistributed": (
        (4, 6),
        lambda x: layers.TimeDistributed(layers.Dense(7, _gate(True)), name="b")(
            layers.TimeDistributed(layers.Dense(7, _gate(False)), name="a")(x)
        ),
        "a",
    ),
    "constants": (
        (6,),
        lambda x: _dense(x, "b") * np.arange(7, dtype="float32") + _dense(x, "b2") * np.ones(7),
        "",
    ),
    "one operation along two axes": ((5, 6), _two_axes, ""),
    "a shuffle met twice": ((12, 12, 3), _shuffled_twice, "abc"),
    "reshape with -1": (
        (4, 4, 3),
        lambda x: ops.reshape(
            ops.reshape(layers.Conv2D(8, 1, name="a")(x), (-1, 16, 8)), (-1, 128)
        ),
        "a",
    ),
    "map": ((6,), lambda x: ops.map(lambda t: t * 2, _dense(x, "a")), "a"),
    "vectorized_map": (
        (6,),
        lambda x: ops.vectorized_map(
            _softmax_of, _dense(ops.vectorized_map(_doubled, _dense(x, "a")), "b")
        ),
        "a",
    ),
    "fori_loop": ((6,), lambda x: ops.fori_loop(0, 3, lambda i, v: v * 1.1, _dense(x, "a")), "a"),
    "while_loop": (
        (6,),
        lambda x: ops.while_loop(lambda v: ops.sum(v) > 1e9, lambda v: (v / 2,), (_dense(x, "a"),))[
            0
        ],
        "",
    ),
    "switch": (
        (6,),
        lambda x: ops.switch(ops.convert_to_tensor(1), [_doubled, ops.relu], _dense(x, "a")),
        "a",
    ),
    "associative_scan": (
        (5, 6),
        lambda x: ops.associative_scan(lambda a, b: a + b, _dense(x, "a"), axis=1),
        "a",
    ),
}


def _doubled(x):
    return ops.relu(x) * 2


def _softmax_of(x):
    return ops.softmax(x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_left_computes_the_same(name):
    shape, function, free = OPERATIONS[name]
    inputs = keras.Input(shape)
    x = function(inputs)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    randomize(model)
    graph, groups = graph_and_groups(model)
    made = {maker for group in groups if not group.frozen for maker in group.producers}
    assert made & {"a", "b", "c"} == set(free)
    chosen = choose([group for group in groups if not group.frozen], seed=0)
    chosen = [(g, gone) if gone.any() else (g, np.arange(g.channels) == 0) for g, gone in chosen]
    mask(chosen)
    x = random_inputs(model)
    smaller = [cut(graph, gone_of(chosen)), kprune.shrink(model)] if chosen else [cut(graph, [])]
    for small in smaller:
        assert not {id(v) for v in small.variables} & {id(v) for v in model.variables}
        np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)


def test_an_operation_that_fails_freezes_its_channels():
    def fails(x):
        if x.shape[0] is not None:  # Not while the model is made.
            raise RuntimeError("no such luck\nand more")
        return x

    inputs = keras.Input((6,))
    x = layers.Activation(fails)(layers.Dense(8, name="made")(inputs))
    report = kprune.channel_groups(keras.Model(inputs, layers.Dense(3)(x)))
    (group,) = (group for group in report if "made" in group.producers)
    assert group.frozen[0].endswith("could not be tried out: no such luck")


def test_identities():
    array = np.arange(3)
    assert identity_of([1, (2.0, array)]) == identity_of([1, (2.0, array.copy())])
    assert identity_of(1) != identity_of(True)
    assert identity_of(0.0) != identity_of(-0.0)
    assert identity_of(np.zeros(2, "float32")) != identity_of(np.zeros(2, "int32"))
    assert identity_of(_gate(True)) != identity_of(_gate(True))
    assert identity_of(layers.Reshape((2, -1))) == identity_of(layers.Reshape((2, -1)))
    assert identity_of(layers.Activation("relu")) != identity_of(layers.Activation(relu))
