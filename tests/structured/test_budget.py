"""Which numbers of channels may be kept: roundings, minima, and what a channel weighs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured.budget import fit_measured
from kprune.structured.rules import registry
from tests.helpers.masking import outputs, random_inputs, randomize
from tests.helpers.topologies import TOPOLOGIES


def _recurrent():
    inputs = keras.Input((6, 8))
    x = layers.LSTM(32, return_sequences=True, name="lstm")(inputs)
    x = layers.GRU(24, return_sequences=True, name="gru")(x)
    x = layers.SimpleRNN(16, name="rnn")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize(("round_to", "fewest"), [(8, 8), (4, None), (8, 16)])
def test_recurrent_layers_keep_rounded_numbers_of_units(round_to, fewest):
    small = kprune.prune_channels(_recurrent(), params=0.6, round_to=round_to, min_channels=fewest)
    units = [small.get_layer(name).units for name in ("lstm", "gru", "rnn")]
    assert all(n % round_to == 0 and n >= (fewest or 1) for n in units)
    assert sum(units) < 72


def test_a_unit_of_any_layer_is_one_channel():
    groups = [g for g in kprune.channel_groups(_recurrent()) if not g.frozen]
    assert [(g.name, g.channels, g.width) for g in groups] == [
        ("lstm", 32, 1), ("gru", 24, 1), ("rnn", 16, 1),
    ]  # fmt: skip


def test_tied_channels_count_as_all_of_them():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(32, 1, name="before")(inputs)
    x = layers.Conv2D(64, 3, groups=4, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    groups = {g.name: (g.channels, g.width) for g in kprune.channel_groups(model) if not g.frozen}
    assert groups == {"before": (8, 4), "grouped": (16, 4)}
    small = kprune.prune_channels(model, channels=0.5, round_to=16, min_channels=16)
    assert small.get_layer("before").filters == 16
    assert small.get_layer("grouped").filters == 32


def _split(inputs):
    parts = ops.split(layers.Conv2D(8, 3, name="conv")(inputs), 2, axis=-1)
    return layers.Concatenate()([layers.MaxPooling2D(2)(part) for part in parts])


def _slices(inputs):
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    return layers.Concatenate()([ops.relu(x[..., :3]), ops.tanh(x[..., 3:])])


@pytest.mark.parametrize("parts", [_split, _slices])
def test_each_part_of_a_split_keeps_a_channel(parts):
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(parts(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    kernel = np.array(ops.convert_to_numpy(model.get_layer("conv").kernel))
    kernel[..., :4] *= 1e-3
    model.get_layer("conv").kernel.assign(kernel)
    small = kprune.prune_channels(model, channels=0.25, round_to=1, min_channels=1)
    assert small.get_layer("conv").filters == 2
    assert np.isfinite(outputs(small, random_inputs(small))[0]).all()


@pytest.mark.parametrize("name", ["resnet", "densenet", "unet"])
def test_groups_are_not_split_needlessly(name):
    found = kprune.channel_groups(TOPOLOGIES[name]())
    makers = [maker for group in found for maker in group.producers]
    assert len(makers) == len(set(makers))


def test_recurrent_layers_in_time_distributed_ones_meet_their_budget():
    inputs = keras.Input((3, 7, 6))
    x = layers.TimeDistributed(layers.LSTM(24, return_sequences=True))(inputs)
    x = layers.TimeDistributed(layers.GRU(16))(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    small = kprune.prune_channels(model, flops=0.5, round_to=1)
    share = kprune.flops(small).total / kprune.flops(model).total
    assert abs(share - 0.5) <= 0.02 * 0.5


def test_outcome_is_measured(monkeypatch):
    """A rule that says nothing of how often its kernel is multiplied is found out."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @kprune.structured.register_channel_rule(layers.Dense)
    def dense(call):
        out = call.new(call.layer.units, "units")
        call.use(call.layer.kernel, {1: out}, {0: call.channels()})
        call.use(call.layer.bias, along={0: out})
        return call.output(-1, out)

    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(32)(layers.Conv2D(16, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    small = kprune.prune_channels(model, flops=0.8, round_to=1)
    share = kprune.flops(small).total / kprune.flops(model).total
    assert abs(share - 0.8) <= 0.02 * 0.8


def _windows():
    """An MLP in windows of 4 x 4, which stand in the batch, as in Swin."""
    inputs = keras.Input((16, 16, 8))
    x = ops.transpose(ops.reshape(inputs, (-1, 4, 4, 4, 4, 8)), (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, 16, 8))
    x = x + layers.Dense(8)(layers.Dense(64, activation="relu", name="inside")(x))
    x = ops.transpose(ops.reshape(x, (-1, 4, 4, 4, 4, 8)), (0, 1, 3, 2, 4, 5))
    x = layers.Dense(64, activation="relu")(ops.reshape(x, (-1, 16, 16, 8)))
    return keras.Model(inputs, layers.Dense(4)(x))


def _non_local():
    """Products between activations, which no rule counts."""
    inputs = keras.Input((36, 3))
    x = layers.Dense(64, activation="relu")(inputs)
    weights = layers.Softmax()(layers.Dot(axes=(2, 2))([layers.Dense(32)(x), layers.Dense(32)(x)]))
    y = layers.Dense(64)(layers.Dot(axes=(2, 1))([weights, layers.Dense(32)(x)]))
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("share", [0.7, 0.5])
@pytest.mark.parametrize("build", [_windows, _non_local])
def test_budgets_are_met_by_what_is_measured(build, share):
    model = build()
    small = kprune.prune_channels(model, flops=share, round_to=1)
    reached = kprune.flops(small).total / kprune.flops(model).total
    assert abs(reached - share) <= 0.02 * share


def test_channels_cost_what_is_computed_with_them():
    report = kprune.channel_groups(_windows())
    (inside,) = (group for group in report if "inside" in group.producers)
    assert inside.flops == 2 * 16 * 16 * (8 + 8)


def test_what_is_out_of_reach_is_measured_too():
    with pytest.raises(ValueError, match=r"flops=0.1 is out of reach: .* 0\.\d+ stays"):
        kprune.prune_channels(_non_local(), flops=0.1, round_to=1)


def test_the_aim_is_corrected_until_the_outcome_is_near():
    def measured(kept):
        expected = kept[0] / 100
        return None, 0.3 + 0.7 * expected**2, expected

    kept, _, reached = fit_measured(
        lambda aim: np.array([round(aim)]), measured, everything=100, share=0.5, near=0.02
    )
    assert abs(reached - 0.5) <= 0.01
    assert abs(kept[0] - 53) <= 1


def test_numpy_numbers_are_numbers():
    small = kprune.prune_channels(
        _recurrent(), params=np.float32(0.6), round_to=np.int64(4), min_channels=np.int32(8)
    )
    assert small.get_layer("lstm").units % 4 == 0
    assert kprune.Channels(round_to=np.int64(4)).get_config()["round_to"] == 4


def test_groups_that_are_smaller_than_the_rounding_are_named():
    inputs = keras.Input((4,))
    x = layers.Dense(32, name="wide")(layers.Dense(6, name="narrow")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"all they have: narrow \(6\), and these must stay"):
        kprune.prune_channels(model, params=0.05)
    with pytest.raises(ValueError, match="`layers` matches nothing"):
        kprune.prune_channels(model, params=0.5, layers=[])
