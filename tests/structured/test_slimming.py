"""Network slimming: the penalty is there during `fit`, and gone after it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune


def _model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(1)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def _fit(model, *callbacks):
    x = np.random.default_rng(0).normal(size=(128, 6, 6, 2)).astype("float32")
    model.fit(x, x.mean((1, 2, 3)), epochs=3, verbose=0, shuffle=False, callbacks=list(callbacks))
    return float(ops.sum(ops.abs(model.get_layer("norm").gamma)))


def test_scales_shrink_and_the_penalty_goes():
    plain, slimmed = _fit(_model()), _model()
    assert _fit(slimmed, kprune.structured.Slimming(0.3)) < 0.8 * plain
    assert slimmed.get_layer("norm").gamma.regularizer is None
    assert not slimmed.losses
    small = kprune.prune_channels(
        slimmed, channels=0.5, criterion=kprune.structured.BatchNormScale(), round_to=1
    )
    scales = np.abs(ops.convert_to_numpy(slimmed.get_layer("norm").gamma))
    kept = np.abs(ops.convert_to_numpy(small.get_layer("norm").gamma))
    np.testing.assert_allclose(np.sort(kept), np.sort(scales)[4:], rtol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`l1`"):
        kprune.structured.Slimming(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no batch normalization"):
        model.fit(
            np.ones((4, 4)), np.ones((4, 3)), verbose=0, callbacks=[kprune.structured.Slimming()]
        )
