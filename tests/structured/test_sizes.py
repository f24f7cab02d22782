"""Channels of models that leave sizes open, followed at a size that they accept."""

import keras
import numpy as np
import pytest

import kprune
from tests.helpers.dynamic_sizes import at_most_40, sliced, splice, u_net
from tests.helpers.masking import randomize


@pytest.mark.parametrize("make", [splice, sliced, u_net], ids=lambda make: make.__name__)
def test_flops_halve_at_a_size_that_is_found(make):
    model = make()
    small = kprune.prune_channels(model, flops=0.5, round_to=1)
    assert small.inputs[0].shape == model.inputs[0].shape
    assert kprune.flops(small).sizes == kprune.flops(model).sizes
    assert abs(kprune.flops(small).total / kprune.flops(model).total - 0.5) <= 0.03


def test_a_cut_splice_network_computes_what_the_masked_one_does():
    model = splice()
    randomize(model)
    first = model.layers[1]
    kernel, bias = (np.array(value) for value in first.get_weights())
    kernel[..., :8], bias[:8] = 0, 0
    first.set_weights([kernel, bias])
    second = model.get_layer(index=2)
    values = [np.array(value) for value in second.get_weights()]
    values[0][..., :8], values[1][:8] = 0, 0
    second.set_weights(values)
    small = kprune.shrink(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(0).normal(size=(1, 10_004, 4)).astype("float32")
    np.testing.assert_allclose(small.predict(x), model.predict(x), atol=1e-5)


def test_the_size_weighs_in_the_budget():
    inputs = keras.Input((None, 8))
    x = keras.layers.Conv1D(16, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(512, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    for size in (1, 500):
        shape = (size, 8)
        small = kprune.prune_channels(model, flops=0.5, round_to=1, input_shape=shape)
        share = [kprune.flops(one, input_shape=shape).total for one in (small, model)]
        assert abs(share[0] / share[1] - 0.5) <= 0.03


def test_sizes_that_do_not_fit():
    model = splice()
    before = model.get_weights()
    for entrance in (kprune.channel_groups, lambda m, **k: kprune.prune_channels(m, 0.5, **k)):
        with pytest.raises(ValueError, match=r"\(500, 4\).*Cropping1D.*\(10001, 4\)"):
            entrance(model, input_shape=(500, 4))
        with pytest.raises(ValueError, match=r"fixes dimension 2 .*at 4.*\(20000, 3\)"):
            entrance(model, input_shape=(20_000, 3))
        with pytest.raises(ValueError, match=r"\(90,\).*At most 40.*\(32,\)"):
            entrance(at_most_40(), free_dim=90)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert kprune.channel_groups(model, input_shape=(12_000, 4)).groups


def test_inputs_that_have_names():
    """As a text model's: a dict, whose sizes are open."""
    tokens, mask = keras.Input((None,), dtype="int32"), keras.Input((None,))
    x = keras.layers.Embedding(20, 8)(tokens) * keras.ops.expand_dims(mask, -1)
    x = keras.layers.Dense(8)(keras.layers.Dense(16, activation="relu")(x))
    model = keras.Model({"token_ids": tokens, "padding_mask": mask}, x)
    small = kprune.prune_channels(model, flops=0.5, round_to=1, free_dim=12)
    sizes = {"token_ids": (12,), "padding_mask": (12,)}
    again = kprune.prune_channels(model, flops=0.5, round_to=1, input_shape=sizes)
    assert small.count_params() == again.count_params() < model.count_params()
