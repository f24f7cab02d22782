"""shrink takes out what is empty, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.structured.surgery import cut
from tests.helpers.masking import (
    choose,
    gone_of,
    graph_and_groups,
    mask,
    outputs,
    random_inputs,
    randomize,
)
from tests.helpers.topologies import TOPOLOGIES


def _zero(variable, channels):
    value = np.array(keras.ops.convert_to_numpy(variable))
    value[..., channels] = 0
    variable.assign(value)


def _check_same(model, small):
    inputs = random_inputs(model, batch=4, seed=3)
    for a, b in zip(outputs(small, inputs), outputs(model, inputs), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)


# Eager JAX compiles every operation for every shape; test_exactness has all topologies there.
_NAMES = sorted(TOPOLOGIES)[:: 3 if keras.backend.backend() == "jax" else 1]


@pytest.mark.fast_for(
    "mlp", "vgg", "mobilenet_v1", "cross_attention", "splits", "convolutions_3d", "mixed_float16"
)
@pytest.mark.parametrize("name", _NAMES)
def test_masked_channels_are_found(name):
    keras.utils.set_random_seed(0)
    model = TOPOLOGIES[name]()
    randomize(model)
    graph, groups = graph_and_groups(model)
    free = [group for group in groups if not group.frozen and not group.inexact]
    chosen = next(c for c in (choose(free, seed) for seed in range(99)) if len(gone_of(c)))
    mask(chosen)
    small = kprune.shrink(model)
    assert small.count_params() <= cut(graph, gone_of(chosen)).count_params()
    if name != "mixed_float16":
        _check_same(model, small)


def _two_convolutions(activation="relu", padding="valid", kernel=3, use_bias=False, center=True):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = layers.BatchNormalization(center=center, name="norm")(x)
    x = layers.Activation(activation)(x)
    x = layers.Conv2D(6, kernel, padding=padding, use_bias=use_bias, name="second")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    randomize(model)
    return model


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "linear"])
def test_constants_move_into_the_bias_of_what_takes_them(activation, use_bias):
    model = _two_convolutions(activation, use_bias=use_bias)
    _zero(model.get_layer("norm").gamma, [1, 4, 5])
    small = kprune.shrink(model)
    assert small.get_layer("first").filters == 5
    assert small.get_layer("second").use_bias
    _check_same(model, small)


def test_a_dead_filter_is_found_without_a_zero_scale():
    model = _two_convolutions("sigmoid", kernel=1)
    _zero(model.get_layer("first").kernel, [0, 7])
    small = kprune.shrink(model)
    assert small.get_layer("first").filters == 6
    _check_same(model, small)


def test_what_is_not_taken_in_goes():
    model = _two_convolutions()
    kernel = model.get_layer("second").kernel
    value = np.array(keras.ops.convert_to_numpy(kernel))
    value[:, :, 2] = 0
    kernel.assign(value)
    small = kprune.shrink(model)
    assert small.get_layer("first").filters == 7
    _check_same(model, small)


def test_constants_into_padding_stay():
    model = _two_convolutions("sigmoid", padding="same")
    _zero(model.get_layer("norm").gamma, [1, 4])
    with pytest.raises(ValueError, match="second cannot absorb"):
        kprune.shrink(model)
    # A dead channel that emits zero goes through padding.
    model = _two_convolutions("relu", padding="same", center=False)
    _zero(model.get_layer("norm").gamma, [1, 4])
    small = kprune.shrink(model)
    assert small.get_layer("first").filters == 6
    _check_same(model, small)


def test_flattened_constants_move_into_the_dense_bias():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, padding="same", activation="sigmoid", name="conv")(inputs)
    x = layers.ZeroPadding2D(1)(x)  # Now the constant differs from place to place.
    model = keras.Model(inputs, layers.Dense(3, use_bias=False)(layers.Flatten()(x)))
    randomize(model)
    _zero(model.get_layer("conv").kernel, [0, 3])
    small = kprune.shrink(model)
    assert small.get_layer("conv").filters == 3
    _check_same(model, small)


def test_a_gate_keeps_no_dead_channel_alive():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(center=False, name="norm")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Conv2D(4, 3, padding="same")(x * gate)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    randomize(model)
    _zero(model.get_layer("norm").gamma, [2, 3])
    small = kprune.shrink(model)
    assert small.get_layer("conv").filters == small.get_layer("gate").filters == 6
    _check_same(model, small)


def test_a_residual_branch_alone_empties_no_sum():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 1, name="stem")(inputs)
    branch = layers.Conv2D(6, 3, padding="same", name="branch")(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x + branch)))
    randomize(model)
    for part in (model.get_layer("branch").kernel, model.get_layer("branch").bias):
        _zero(part, [1, 2])
    with pytest.raises(ValueError, match="nothing to shrink"):
        kprune.shrink(model)


def test_a_layer_keeps_one_channel():
    model = _two_convolutions()
    _zero(model.get_layer("norm").gamma, list(range(8)))
    with pytest.warns(UserWarning, match="a layer needs one channel"):
        small = kprune.shrink(model)
    assert small.get_layer("first").filters == 1
    _check_same(model, small)


def test_layer_normalization_keeps_its_channels():
    inputs = keras.Input((5, 4))
    x = layers.LayerNormalization()(layers.Dense(8, name="stream")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    for part in (model.get_layer("stream").kernel, model.get_layer("stream").bias):
        _zero(part, [0])
    for weight in model.weights:
        if weight.path.endswith(("gamma", "beta")):
            _zero(weight, [0])
    with pytest.raises(ValueError, match="mean and variance are over the channels"):
        kprune.shrink(model)


def test_the_original_stays(tmp_path):
    model = _two_convolutions()
    _zero(model.get_layer("norm").gamma, [1])
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    small = kprune.shrink(model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [layer.name for layer in model.layers] == names
    small.save(tmp_path / "small.keras")
    _check_same(small, keras.models.load_model(tmp_path / "small.keras"))
