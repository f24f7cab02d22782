"""Each function of `kprune._keras.opening_h5` does on this Keras what it says."""

import keras
import numpy as np

from kprune._keras.opening_h5 import h5_scope, to_keras_3


def test_to_keras_3():
    config = keras.layers.DepthwiseConv2D(3).get_config()
    old = {**config, "groups": 1, "batch_input_shape": [None, 4, 4, 1]}
    layer = {"class_name": "DepthwiseConv2D", "config": old}
    found = to_keras_3({"layers": [layer]})["layers"][0]["config"]
    assert "batch_input_shape" not in found
    assert keras.layers.DepthwiseConv2D.from_config(found).get_config() == config


def test_h5_scope(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), keras.losses.MeanSquaredError())
    model.fit(np.ones((2, 2)), np.ones((2, 1)), epochs=2, verbose=0)
    model.save(tmp_path / "model.h5")
    with h5_scope():
        loaded = keras.models.load_model(tmp_path / "model.h5")
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for old, new in zip(model.optimizer.variables, loaded.optimizer.variables):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(old), keras.ops.convert_to_numpy(new), rtol=1e-6
        )
