"""The sizes of a model's inputs: given ones are checked, and others found."""

import keras
import pytest
from keras import layers, ops

from kprune.graphs.signature import TensorSpec, describe, symbolic_inputs
from kprune.graphs.sizes import concrete, refusal, sizes_of, with_input_shape
from tests.helpers.dynamic_sizes import SMALLEST, splice, u_net


def found(model, **sizes):
    return sizes_of(concrete(model, [symbolic_inputs(model)], **sizes))


def two_inputs():
    a, b = keras.Input((None, 4), name="left"), keras.Input((6, None), name="right side")
    joined = ops.concatenate([ops.mean(a, 1), ops.mean(b, 2)], axis=-1)
    return keras.Model([a, b], layers.Dense(2)(joined))


@pytest.mark.parametrize("name", SMALLEST)
def test_the_usual_size_or_the_smallest_that_works_is_found(name):
    make, shape = SMALLEST[name]
    model = make()
    arguments = concrete(model, [symbolic_inputs(model)])
    assert sizes_of(arguments) == {"input": shape}
    assert refusal(model, arguments) is None


def test_a_smaller_size_is_refused_where_the_smallest_was_found():
    model = splice()
    refused = with_input_shape(model, [symbolic_inputs(model)], (10_000, 4))
    assert "Cropping1D" in refusal(model, refused)


def test_given_sizes_are_taken_and_the_rest_found():
    model = two_inputs()
    assert found(model, input_shape={"left": (3, 4)}) == {"left": (3, 4), "right_side": (6, 64)}
    assert found(model, input_shape={"left": (3, None)}, free_dim=7) == {
        "left": (3, 4),
        "right_side": (6, 7),
    }
    assert found(model, input_shape={"right side": (6, 9)})["right_side"] == (6, 9)


def test_specs_of_a_signature_keep_their_kind():
    model = two_inputs()
    arguments = with_input_shape(model, describe(model).arguments, {"left": (5, 4)})
    first = keras.tree.flatten(arguments)[0]
    assert first == TensorSpec("left", (None, 5, 4), "float32")


@pytest.mark.parametrize(
    ("input_shape", "message"),
    [
        ({"middle": (3, 4)}, r"has not: \['middle'\].*'left': \(None, 4\).*Received"),
        ((3, 4), r"2 inputs.*dict.*'right_side': \(6, None\).*Received"),
        ({"left": (1, 3, 4)}, r"2 sizes.*'left'.*Leave the batch out.*Received: \(1, 3, 4\)"),
        ({"left": (3,)}, r"2 sizes.*'left'.*Received: \(3,\)"),
        ({"left": (3, 5)}, r"fixes dimension 2 .*'left' at 4.*Received: \(3, 5\)"),
        ({"left": (0, 4)}, r"positive ints.*Received: \(0, 4\)"),
        ({"left": (2.5, 4)}, r"positive ints.*Received: \(2\.5, 4\)"),
        ({"left": (True, 4)}, r"positive ints.*Received: \(True, 4\)"),
        ({"left": 3}, r"positive ints.*Received: 3"),
    ],
)
def test_bad_sizes(input_shape, message):
    with pytest.raises(ValueError, match=message):
        found(two_inputs(), input_shape=input_shape)
    with pytest.raises(TypeError, match=r"tuple.*dict.*Received: input_shape=5"):
        found(two_inputs(), input_shape=5)
    with pytest.raises(ValueError, match=r"positive int\. Received: free_dim=0"):
        found(two_inputs(), free_dim=0)


@pytest.mark.parametrize("sizes", [{"input_shape": (500, 4)}, {"free_dim": 500}])
def test_a_size_that_the_model_does_not_accept_is_named_with_what_it_needs(sizes):
    with pytest.raises(ValueError, match=r"\(500, 4\).*Cropping1D.*accepts.*\(10001, 4\)"):
        found(splice(), **sizes)


def test_a_size_between_others_that_a_model_accepts_is_fine():
    assert found(u_net(), input_shape=(96, 32, 3)) == {"input": (96, 32, 3)}
    with pytest.raises(ValueError, match=r"\(100, 100, 3\).*Concatenate.*\(224, 224, 3\)"):
        found(u_net(), free_dim=100)


def test_no_size_at_all_is_an_error_that_says_where_it_fails():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layers.Concatenate(axis=-1)([inputs, inputs[:, 1:]]))
    with pytest.raises(ValueError, match=r"(?s)No size up to.*Concatenate.*input_shape"):
        found(model)


def test_a_subclassed_model_is_not_bound_to_what_it_was_called_on_first():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return ops.mean(self.dense(x), axis=1)

    model = Own()
    model(ops.ones((2, 5, 4)))
    arguments = describe(model).arguments
    (shape,) = sizes_of(concrete(model, arguments, (9, 4))).values()
    assert shape == (9, 4)
    with pytest.raises(ValueError, match="does not accept"):
        concrete(model, arguments, (9, 5))


def test_looking_for_a_size_leaves_no_node_in_the_graph():
    model = splice()
    concrete(model, [symbolic_inputs(model)])
    assert model.layers[1].output is not None  # Keras refuses this of a layer with two calls.
