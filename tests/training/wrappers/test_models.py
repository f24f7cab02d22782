"""Whole models: which layers are wrapped."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import compiled, data, mlp
from tests.helpers.wrapped import (
    NOW,
    Subclassed,
    expected_zeros,
    fit,
    numpy,
    steps,
    zeros,
)


def test_whole_models_leave_layers_without_kernels_as_they_are():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Flatten(name="flat")(x) * 2.0
    frozen = layers.Dense(4, name="frozen", trainable=False)
    outputs = [layers.Dense(2, name="a")(frozen(x)), layers.Dense(1, name="b")(x)]
    model = keras.Model(inputs, outputs, name="two_heads")
    wrapped = kprune.prune_low_magnitude(model)
    assert wrapped.name == "two_heads"
    assert [w.name for w in wrappers_in(wrapped)] == [
        "prune_low_magnitude_conv",
        "prune_low_magnitude_a",
        "prune_low_magnitude_b",
    ]
    assert not wrapped.compiled
    for name in ("norm", "relu", "flat", "frozen"):
        assert wrapped.get_layer(name) is model.get_layer(name)
    image = np.ones((2, 8, 8, 3), "float32")
    for a, b in zip(model(image), wrapped(image)):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_nested_and_shared_models():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="inner")
    twice = keras.Model(x := keras.Input((6,)), inner(inner(x)), name="twice")
    outer = keras.Model(x := keras.Input((6,)), layers.Dense(2)(inner(twice(x))))
    wrapped = kprune.prune_low_magnitude(outer, pruning_schedule=NOW)
    assert len(wrappers_in(wrapped)) == 2
    assert wrapped.get_layer("inner") is wrapped.get_layer("twice").get_layer("inner")
    wrapped.compile("sgd", "mse")
    wrapped.fit(np.ones((8, 6)), np.ones((8, 2)), 4, verbose=0)
    assert steps(wrapped) == {2}


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False], ids=["built", "not_built"])
def test_subclassed_models_are_wrapped_through_the_layers_they_own(built):
    x = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
    model = Subclassed()
    if built:
        before = {name: numpy(value) for name, value in model(x).items()}
    wrapped = kprune.prune_low_magnitude(model, pruning_schedule=NOW)
    assert wrapped is model
    assert model.alias is model.first
    assert len(wrappers_in(model)) == 7
    if built:
        for name, value in model(x).items():
            np.testing.assert_allclose(numpy(value), before[name], rtol=1e-5, atol=1e-6)
    model.compile("adam", {"a": "mse", "b": "mse"})
    y = {"a": np.zeros((32, 2)), "b": np.zeros((32, 3))}
    model.fit(x, y, 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert zeros(model) == expected_zeros(model, 0.6)
    assert steps(model) == {4}


@pytest.mark.slow
def test_a_model_that_fit_never_trains_is_reported():
    class Mute(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = compiled(kprune.prune_low_magnitude(Mute(), pruning_schedule=NOW))
    with pytest.raises(ValueError, match="must take an argument `training`"):
        fit(model, kprune.UpdatePruningStep())
    model(data(16)[0], training=True)  # A loop of one's own says so.
    assert steps(model) == {1}


@pytest.mark.slow
def test_models_that_are_built_when_they_are_trained():
    model = keras.Sequential([layers.Dense(9), layers.BatchNormalization(), layers.Dense(2)])
    model = compiled(kprune.prune_low_magnitude(model, pruning_schedule=NOW))
    fit(model, kprune.UpdatePruningStep())
    assert len(zeros(model)) == 2
    assert zeros(model) == expected_zeros(model, 0.6)


def test_lists_and_names():
    stack = [layers.Dense(4, name="one"), layers.ReLU(), layers.BatchNormalization()]
    wrapped = kprune.prune_low_magnitude(stack, pruning_schedule=NOW)
    assert [w.name for w in wrapped[:1]] == ["prune_low_magnitude_one"]
    assert wrapped[1:] == stack[1:]
    assert kprune.prune_low_magnitude(wrapped) == wrapped


def test_input_shape_goes_to_the_wrapper_as_in_tfmot():
    with pytest.warns(UserWarning, match="input_shape"):
        first = kprune.prune_low_magnitude(layers.Dense(4), NOW, input_shape=(6,))
    assert keras.Sequential([first, layers.Dense(2)]).built
    with pytest.warns(UserWarning, match="input_shape"):
        first = kprune.prune_low_magnitude(layers.Dense(4, input_shape=(6,)), NOW)
    assert keras.Sequential([first, layers.Dense(2)]).built


def test_a_policy_says_which_layers():
    class Policy(kprune.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "second"

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 4:
                raise ValueError("too deep")

    model = kprune.prune_low_magnitude(mlp(), pruning_policy=Policy())
    assert [w.layer.name for w in wrappers_in(model)] == ["second"]
    deep = keras.Sequential([keras.Input((2,)), *[layers.Dense(2) for _ in range(5)]])
    with pytest.raises(ValueError, match="too deep"):
        kprune.prune_low_magnitude(deep, pruning_policy=Policy())


@keras.saving.register_keras_serializable(package="tests")
class LowRank(layers.Layer, kprune.PrunableLayer):
    def build(self, input_shape):
        self.down = self.add_weight(shape=(input_shape[-1], 4), name="down")
        self.up = self.add_weight(shape=(4, 6), name="up")
        self.scale = self.add_weight(shape=(6,), name="scale")

    def call(self, inputs):
        return ops.matmul(ops.matmul(inputs, self.down), self.up) * self.scale

    def get_prunable_weights(self):
        return [self.up, self.scale]


def test_prunable_layers_name_their_weights():
    model = keras.Sequential([keras.Input((8,)), kprune.prune_low_magnitude(LowRank(), NOW)])
    (wrapper,) = wrappers_in(model)
    assert [v.name for v, _, _ in wrapper.pruning_vars] == ["up", "scale"]
    with pytest.raises(TypeError, match="abstract"):
        kprune.PrunableLayer()
