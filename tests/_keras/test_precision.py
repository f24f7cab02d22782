"""Each function of `kprune._keras.precision` does on this Keras what it says."""

import keras
import numpy as np

from kprune._keras import precision


def mixed():
    half = keras.layers.Dense(2, dtype="mixed_bfloat16", name="half")
    return keras.Sequential([keras.Input((2,)), half, keras.layers.Dense(2, dtype="float32")])


def test_low_precision_layers():
    model = mixed()
    assert [layer.name for layer in precision.low_precision_layers(model)] == ["half"]


def test_float32_compute():
    model = mixed()
    policies = [layer.dtype_policy for layer in model.layers]
    kernel = model.layers[0].kernel
    with precision.float32_compute(model):
        assert precision.low_precision_layers(model) == []
        x = np.full((1, 2), 1 + 2**-12, "float32")
        found = keras.ops.convert_to_numpy(model.layers[0](x))
        expected = x @ keras.ops.convert_to_numpy(kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert model.layers[0].variable_dtype == "float32"
    assert [layer.dtype_policy for layer in model.layers] == policies
    assert model.layers[0].compute_dtype == "bfloat16"
