"""Each function of `kprune._keras.methods` does on this Keras what it says."""

import keras
import numpy as np

from kprune._keras import methods


def built():
    layer = keras.layers.Dense(2, kernel_initializer="ones")
    layer.build((None, 2))
    return layer


def twice(call, *args, **kwargs):
    return 2 * call(*args, **kwargs)


def sums(layer):
    return keras.ops.convert_to_numpy(layer(np.ones((1, 2), "float32"))).tolist()


def test_replace_method():
    layer, other = built(), built()
    methods.replace_method(layer, "call", twice)
    assert sums(layer) == [[4.0, 4.0]]
    assert sums(other) == [[2.0, 2.0]]
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    assert model.predict(np.ones((1, 2)), verbose=0).tolist() == [[4.0, 4.0]]
    assert len(layer.variables) == 2
    assert layer.get_config() == {**other.get_config(), "name": layer.name}


def test_is_replaced():
    layer = built()
    assert not methods.is_replaced(layer, "call")
    methods.replace_method(layer, "call", twice)
    assert methods.is_replaced(layer, "call")
    assert not methods.is_replaced(layer, "build")


def test_restore_method():
    layer = built()
    methods.replace_method(layer, "call", twice)
    methods.restore_method(layer, "call")
    assert not methods.is_replaced(layer, "call")
    assert "call" not in vars(layer)
    assert sums(layer) == [[2.0, 2.0]]


def test_restore_method_of_the_object_itself():
    layer = built()
    own = layer.call = lambda inputs: 3 * inputs
    methods.replace_method(layer, "call", twice)
    assert sums(layer) == [[6.0, 6.0]]
    methods.restore_method(layer, "call")
    assert layer.call is own
