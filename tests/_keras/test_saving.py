"""Each function of `kprune._keras.saving` does on this Keras what it says."""

import keras
import numpy as np
import pytest

from kprune._keras import saving


def test_functions_allowed():
    inner = keras.layers.Lambda(lambda x: 2 * x)
    layer = keras.layers.TimeDistributed(inner)
    config = layer.get_config()
    with pytest.raises(ValueError, match="unsafe"):
        keras.layers.TimeDistributed.from_config(layer.get_config())
    with saving.functions_allowed():
        new = keras.layers.TimeDistributed.from_config(config)
    twos = keras.ops.convert_to_numpy(new(np.ones((1, 2, 3), "float32")))
    assert twos.tolist() == np.full((1, 2, 3), 2.0).tolist()
    with pytest.raises(ValueError, match="unsafe"):
        keras.layers.TimeDistributed.from_config(layer.get_config())


def test_registered_names():
    def function(x):
        return x

    names = saving.registered_names()
    names[function] = "room>name"
    try:
        assert keras.saving.get_registered_name(function) == "room>name"
        layer = keras.layers.Activation(function)
        assert "room>name" in str(keras.saving.serialize_keras_object(layer))
    finally:
        del names[function]
    assert keras.saving.get_registered_name(function) == "function"
