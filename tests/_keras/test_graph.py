"""Each function of `kprune._keras.graph` does on this Keras what it says."""

import keras
import numpy as np
import pytest
from keras import ops

from kprune._keras import graph


def functional():
    inputs = keras.Input((4,), name="x")
    shared = keras.layers.Dense(4, name="shared")
    hidden = shared(shared(inputs))
    return keras.Model(inputs, ops.reshape(hidden + 1.0, (-1, 2, 2)))


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")])


def test_is_functional():
    assert graph.is_functional(functional())
    assert not graph.is_functional(sequential())
    assert not graph.is_functional(keras.layers.Dense(2))
    inputs = keras.Input((2,))
    assert not graph.is_functional(keras.Function(inputs, inputs + 1.0))


def test_functional_class():
    assert type(functional()) is graph.functional_class()
    assert issubclass(graph.functional_class(), keras.Model)


def test_is_made_from_graph():
    class Plain(graph.functional_class()):
        pass

    class Own(keras.Model):
        def __init__(self, width):
            inputs = keras.Input((2,))
            super().__init__(inputs, keras.layers.Dense(width)(inputs))

    assert graph.is_made_from_graph(Plain)
    assert graph.is_functional(Own(2))
    assert not graph.is_made_from_graph(Own)


def test_functional_inside():
    model = sequential()
    inside = graph.functional_inside(model)
    assert graph.is_functional(inside)
    assert inside.inputs[0] is model.inputs[0]
    assert [node.operation.name for node in graph.nodes_by_depth(inside)][-1] == "a"
    assert graph.functional_inside(keras.Sequential([keras.layers.Dense(2)])) is None


def test_nodes_by_depth():
    model = functional()
    nodes = graph.nodes_by_depth(model)
    assert [node.is_input for node in nodes] == [True, False, False, False, False]
    assert [node.operation.name for node in nodes[1:3]] == ["shared", "shared"]
    # Run node by node, they compute what the model does.
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    known = {id(model.inputs[0]): ops.convert_to_tensor(x)}
    for node in nodes[1:]:
        assert {id(t) for t in node.arguments.keras_tensors} <= known.keys()
        args, kwargs = node.arguments.fill_in(known)
        results = keras.tree.flatten(node.operation(*args, **kwargs))
        known.update(zip(map(id, node.outputs), results))
    found = ops.convert_to_numpy(known[id(model.outputs[0])])
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-6)


def test_input_and_output_are_the_structures():
    """Public names that stand for private ones: what a model was made with, however nested."""
    inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((2,), name="a")}
    model = keras.Model(inputs, {"sum": inputs["a"] + inputs["b"]})
    model({"a": keras.Input((2,)), "b": keras.Input((2,))})  # a second call of it
    assert model.input.keys() == {"a", "b"}
    assert model.input["a"] is inputs["a"]
    assert list(model.output) == ["sum"]


def test_call_nodes():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4)
    first = layer(inputs)
    layer(first)
    assert [node.input_tensors[0] is t for node, t in zip(graph.call_nodes(layer), [inputs, first])]
    assert len(graph.call_nodes(layer)) == 2
    assert graph.call_nodes(keras.layers.Dense(2)) == []


def test_producer():
    inputs = keras.Input((4,), optional=True)
    layer = keras.layers.Dense(4)
    assert graph.producer(layer(inputs)) is layer
    assert graph.producer(inputs).optional


def test_unconnected():
    operation = graph.operation_class("Reshape")((2, 2))
    operation(keras.Input((4,)))
    new = graph.unconnected(operation)
    assert type(new) is type(operation)
    assert new.newshape == operation.newshape
    assert graph.call_nodes(new) == []
    new(keras.Input((4,)))
    assert len(graph.call_nodes(operation)) == 1


def test_symbolic_arguments():
    tensor = keras.KerasTensor((None, 4))
    arguments = graph.symbolic_arguments(tensor, 2, axis=tensor)
    assert arguments.args == (tensor, 2)
    assert [t is tensor for t in arguments.keras_tensors] == [True, True]
    assert arguments.fill_in({id(tensor): "x"}) == (("x", 2), {"axis": "x"})


@pytest.mark.parametrize(
    ("name", "call", "attribute"),
    [
        ("Reshape", lambda x: ops.reshape(x, (2, 2)), "newshape"),
        ("BroadcastTo", lambda x: ops.broadcast_to(x, (3, 4)), "shape"),
        ("Split", lambda x: ops.split(x, 2, axis=1)[0], "indices_or_sections"),
        ("GetItem", lambda x: x[:, :2], None),
        ("WhileLoop", lambda x: ops.while_loop(lambda y: False, lambda y: y, [x])[0], None),
    ],
)
def test_operation_class(name, call, attribute):
    operation = graph.producer(call(keras.Input(batch_shape=(1, 4))))
    assert type(operation) is graph.operation_class(name)
    assert attribute is None or hasattr(operation, attribute)


def test_compute_output_spec_of_the_operation_traces_the_call():
    """A public name that stands for a private one."""

    class Told(keras.layers.Layer):
        def call(self, inputs):
            return inputs

        def compute_output_shape(self, shape):
            return (None, None)

    spec = keras.Operation.compute_output_spec(Told(), keras.KerasTensor((None, 4)))
    assert spec.shape == (None, 4)


def test_has_mask():
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    assert graph.has_mask(embedded)
    assert graph.has_mask(keras.layers.Dense(4)(embedded))
    assert not graph.has_mask(inputs)
    # Operations hand no mask on: what `bypass` in `structured/blocks.py` relies on.
    assert not graph.has_mask(embedded + embedded)
    assert not graph.has_mask(ops.copy(embedded))
