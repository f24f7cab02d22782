"""Statistics measured anew are those of the data."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune


def _model():
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(5, name="dense"), layers.BatchNormalization(name="norm")]
    return keras.Sequential([keras.Input((3,)), *stack, layers.Dense(2, name="head")])


def _data(n=96):
    return np.random.default_rng(0).normal(2.0, 3.0, (n, 3)).astype("float32")


def _statistics(model):
    norm = model.get_layer("norm")
    return [ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance)]


def _expected(model, batches):
    hidden = [ops.convert_to_numpy(model.get_layer("dense")(batch)) for batch in batches]
    return [np.mean([h.mean(0) for h in hidden], 0), np.mean([h.var(0) for h in hidden], 0)]


def _pairs(x):
    return ((x[i : i + 32], np.zeros(32)) for i in (0, 32, 64))


@pytest.mark.parametrize("feed", [lambda x: x, lambda x: np.split(x, 3), _pairs])
def test_the_mean_over_the_batches(feed):
    model, x = _model(), _data()
    momentum = model.get_layer("norm").momentum
    others = [w.copy() for w in model.get_layer("dense").get_weights()]
    assert kprune.structured.recalibrate_batchnorm(model, feed(x), batch_size=32) is model
    for got, expected in zip(_statistics(model), _expected(model, np.split(x, 3)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert model.get_layer("norm").momentum == momentum
    for got, expected in zip(model.get_layer("dense").get_weights(), others, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_only_some_batches():
    model, x = _model(), _data()
    kprune.structured.recalibrate_batchnorm(model, x, batch_size=32, batches=1)
    for got, expected in zip(_statistics(model), _expected(model, [x[:32]]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_bad_data_leaves_the_statistics():
    model = _model()
    before = _statistics(model)
    with pytest.raises(ValueError, match="no batch"):
        kprune.structured.recalibrate_batchnorm(model, [])
    with pytest.raises(Exception):  # noqa: B017  Each backend has its own.
        kprune.structured.recalibrate_batchnorm(model, [_data(8), np.ones((8, 7), "float32")])
    for got, expected in zip(_statistics(model), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert model.get_layer("norm").momentum == 0.99
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="no batch normalization"):
        kprune.structured.recalibrate_batchnorm(plain, _data())
