"""The protocol of what acts in training: a `fit` that was cut short is told of, and undone."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.training import mechanism
from kprune.training.strip import find_pruning
from tests.helpers.training import compiled, data, mlp


def convolutional():
    inputs = keras.Input((4, 4, 2))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    kernel = np.ones((3, 3, 2, 8), "float32")
    kernel[0] = 0
    model.layers[1].kernel.assign(kernel)
    return compiled(model)


class CutShort(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        assert self.model.built  # On JAX, this brings the step's weights to the model.
        raise KeyboardInterrupt


# What is left of each in the model, for which `fit` must have begun.
CALLBACKS = {
    "kprune.Pruning": (lambda: kprune.Pruning(0.5, begin=0, end=0), "prunes"),
    "kprune.HoldZeros": (kprune.HoldZeros, "prunes"),
    "WeightClustering": (lambda: kprune.WeightClustering(4), "is being clustered"),
    "QuantizationAware": (kprune.QuantizationAware, "computes in 8 bits"),
    "Slimming": (lambda: kprune.structured.Slimming(0.1), "have a penalty"),
}


def cut_short(callback):
    model = convolutional()
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 2)).astype("float32")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x[:, 0, 0, 0] > 0, verbose=0, callbacks=[callback, CutShort()])
    return model


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_fit_that_was_cut_short_is_told_of_and_undone(name):
    make, told = CALLBACKS[name]
    model = cut_short(make())
    (text,) = find_pruning(model)
    assert told in text
    assert kprune.strip_pruning(model) is model
    assert find_pruning(model) == []
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert model.get_layer("norm").gamma.regularizer is None


@pytest.mark.parametrize("name", ["WeightClustering", "QuantizationAware", "Slimming"])
def test_the_next_fit_with_the_callback_begins_again(name):
    make, _ = CALLBACKS[name]
    model = cut_short(make())
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 2)).astype("float32")
    model.fit(x, x[:, 0, 0, 0] > 0, verbose=0, callbacks=[make()])
    assert find_pruning(model) == []


def test_what_is_registered_is_told_of_and_stripped(monkeypatch):
    class Dropped(mechanism.Mechanism):
        def install(self, model):
            model.dropped = True

        def describe(self, model):
            return ["something is dropped"] if getattr(model, "dropped", False) else []

        def remove(self, model):
            model.dropped = False
            return model

    monkeypatch.setattr(mechanism, "_registered", list(mechanism._registered))
    one = mechanism.register(Dropped())
    model = compiled(mlp())
    one.install(model)
    assert find_pruning(model) == ["something is dropped"]
    with pytest.raises(ValueError, match="something is dropped"):
        kprune.export_tflite(model, "m.tflite")
    kprune.strip_pruning(model)
    assert find_pruning(model) == []


def test_groups_of_both_doors():
    model = compiled(mlp())
    x, y = data(32)
    model.fit(x, y, verbose=0, callbacks=[kprune.Pruning(0.5, begin=0, end=0)])
    assert mechanism.groups_in(model) == model.optimizer.groups
    wrapped = kprune.prune_low_magnitude(mlp())
    assert [len(group.weights) for group in mechanism.groups_in(wrapped)] == [1, 1, 1]
