"""What Keras remembers of `compile`, contract by contract."""

import keras
import numpy as np
import pytest

from kprune._keras import compiling


def built(units=2):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])


def my_loss(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction))


def test_compile_settings():
    model = built()
    assert compiling.compile_settings(model) is None
    model.compile("sgd", my_loss, metrics=["mae"], loss_weights=0.5)
    settings = compiling.compile_settings(model)
    assert settings["loss"] is my_loss
    assert settings["metrics"] == ["mae"]
    assert settings["loss_weights"] == 0.5


def test_compile_like():
    model, other = built(), built()
    compiling.compile_like(model, other)
    assert not model.compiled
    metric = keras.metrics.MeanAbsoluteError(name="far")
    other.compile(keras.optimizers.Adam(0.1), my_loss, metrics=[metric])
    other.optimizer.learning_rate = 0.025
    compiling.compile_like(model, other, run_eagerly=True)
    assert model.run_eagerly
    assert not other.run_eagerly
    assert model.optimizer is not other.optimizer
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.025)
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["far"] == pytest.approx(found["loss"])


def test_compiles_in_its_own_way():
    class Own(keras.Sequential):
        def compile(self, strength):
            super().compile("sgd", "mse")

    model = Own([keras.Input((3,)), keras.layers.Dense(2)])
    assert not compiling.compiles_in_its_own_way(model)
    model.compile(3)
    assert compiling.compiles_in_its_own_way(model)
    plain = built()
    plain.compile("sgd", "mse")
    assert not compiling.compiles_in_its_own_way(plain)
