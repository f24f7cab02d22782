"""Layers with nothing to prune, and what stripping leaves."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import compiled
from tests.helpers.wrapped import (
    NOW,
    expected_zeros,
    fit,
    numpy,
    steps,
    wrapped_mlp,
    zeros,
)


def every_kind():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.PReLU()(x)
    x = layers.Add()([x, layers.Activation("relu")(x)])
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.slow
def test_every_layer_can_be_wrapped_and_stripped():
    model = every_kind()
    wrap = lambda layer: kprune.prune_low_magnitude(layer, pruning_schedule=NOW)  # noqa: E731
    cloned = keras.models.clone_model(model, clone_function=wrap)
    assert len(wrappers_in(cloned)) == len(cloned.layers) - 1 == 8
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(cloned.predict(x), model.predict(x))
    cloned = compiled(cloned)
    cloned.fit(x, np.zeros(16), 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert steps(cloned) == {2}
    assert zeros(cloned) == expected_zeros(cloned, 0.6)
    assert len(zeros(cloned)) == 2
    # TFMOT's order: what is trained, its statistics, masks, thresholds, step.
    norm = cloned.layers[2]
    assert [v.name for v in norm.weights] == [
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "pruning_step",
    ]
    assert {id(v) for v in norm.variables} == {id(v) for v in norm.weights}
    stripped = kprune.strip_pruning(cloned)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(stripped.predict(x), cloned.predict(x))


def test_wrapped_layers_say_what_is_pruned_as_in_tfmot():
    dense, flatten = layers.Dense(4), layers.Flatten()
    wrapped = [kprune.prune_low_magnitude(layer, NOW) for layer in (flatten, dense)]
    model = keras.Sequential([keras.Input((2, 3)), *wrapped])
    assert [w.layer.get_prunable_weights() for w in wrapped] == [[], [dense.kernel]]
    text = str(kprune.sparsity(model))
    assert "get_prunable_weights" not in text
    model(np.ones((1, 2, 3), "float32"), training=True)
    kprune.strip_pruning(model)
    assert not hasattr(dense, "get_prunable_weights")


@pytest.mark.slow
def test_strip_writes_the_zeros_that_a_run_cut_short_has_not():
    model = compiled(wrapped_mlp(NOW))
    fit(model, steps=2, epochs=1)  # Without the callback: the weights are not masked yet.
    wrapped = [(w.layer, numpy(w.pruning_vars[0][1])) for w in wrappers_in(model)]
    assert any((numpy(layer.kernel)[~mask] != 0).any() for layer, mask in wrapped)
    kprune.strip_pruning(model)
    for layer, mask in wrapped:
        np.testing.assert_array_equal(numpy(layer.kernel) != 0, mask)
