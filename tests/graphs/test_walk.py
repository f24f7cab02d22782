"""One walk: whatever is followed through a model arrives where the model sends it."""

import keras
import pytest
from keras import layers

from kprune.graphs.walk import call_arguments, graph_of, operations, walk
from tests.helpers.graph_models import MODELS
from tests.helpers.masking import outputs, random_inputs, randomize


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_with_arrays_computes_the_model(name):
    model = MODELS[name]()
    randomize(model)
    x = random_inputs(model)

    def step(node, values):
        args, kwargs = call_arguments(node, values)
        return keras.tree.flatten(node.operation(*args, **kwargs))

    tensors = [keras.ops.convert_to_tensor(one) for one in keras.tree.flatten(x)]
    if name == "masked":  # The nested model's graph has no mask in it.
        tensors[0] = keras.ops.maximum(tensors[0], 1)
        x = keras.ops.convert_to_numpy(tensors[0])
    found = walk(model, tensors, step)
    for one, expected in zip(found, outputs(model, x), strict=True):
        assert keras.ops.convert_to_numpy(one).tolist() == expected.tolist()


def test_a_model_that_is_called_twice_is_followed_twice():
    names = []

    def step(node, values):
        names.append(node.operation.name)
        return values[:1]

    model = MODELS["shared_model_and_layer"]()
    assert walk(model, ["first", "second"], step) == ["first", "second"]
    assert names.count("a") == names.count("b") == 3
    assert names.count("shared") == 2
    assert [one.name for one in operations(model)].count("a") == 1


def test_notes_are_taken_of_every_tensor_and_may_change_what_follows():
    x = inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    model = keras.Model(inputs, inner(x))
    noted = []

    def note(tensor, value):
        noted.append(tensor)
        return value + 1

    assert walk(model, [0], lambda node, values: values, note) == [4]
    assert noted[0] is model.inputs[0]
    assert noted[1] is graph_of(inner).inputs[0]
    assert noted[-1] is model.outputs[0]


class _Doubling(keras.Model):
    def call(self, x):
        return 2 * super().call(x)


def test_what_is_no_graph_or_called_on_a_constant_is_left_whole():
    inputs = keras.Input((4,))
    doubling = _Doubling(inputs, layers.Dense(4, name="own")(inputs), name="doubling")
    assert graph_of(doubling) is None
    assert graph_of(keras.Sequential([layers.Dense(2)])) is None
    assert graph_of(layers.Dense(2)) is None
    other = keras.Input((4,))
    pair = keras.Model([inputs, other], layers.Add(name="sum")([inputs, other]), name="pair")
    model = keras.Model(inputs, pair([doubling(inputs), keras.ops.ones((1, 4))]))
    names = []
    walk(model, [0], lambda node, values: names.append(node.operation.name) or values)
    assert names == ["doubling", "pair"]
