"""What is frozen, and the reason that is given; rules of one's own; groups that print."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured.rules import registry
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


@keras.saving.register_keras_serializable(package="structured_tests")
class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


@keras.saving.register_keras_serializable(package="structured_tests")
class Opaque(Gain):
    """Computes with its backend's own functions, which do not take symbolic tensors."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("a KerasTensor is no tensor")
        return super().call(x) * ops.max(x, axis=-1, keepdims=True)


def _frozen(function, shape=(6, 6, 3), last=layers.GlobalAveragePooling2D):
    """Why the channels of a convolution must stay, if a function of its output is used."""
    inputs = keras.Input(shape)
    x = function(layers.Conv2D(8, 3, name="conv")(inputs))
    if last is not None:
        x = layers.Dense(3, name="head")(last()(x))
    for group in kprune.channel_groups(keras.Model(inputs, x)):
        if "conv" in group.producers:
            return group.frozen
    return None


REASONS = {
    "Lambda 'lambda': a Lambda layer may do anything": layers.Lambda(
        lambda x: x * 2, name="lambda"
    ),
    "a custom layer without a rule .* cannot be traced: .*KerasTensor": Opaque(),
    "mixes channels": layers.Softmax(),
    "Mean '.*': is over the channels; hidden=True": lambda x: (
        x * ops.mean(x, axis=-1, keepdims=True)
    ),
    "Moments '.*': is over the channels; hidden=True": lambda x: (
        x - ops.moments(x, axes=[-1], keepdims=True)[0]
    ),
    "Std '.*': is over the channels; hidden=True": lambda x: x - ops.std(x, -1, keepdims=True),
    "Max '.*': mixes channels": lambda x: x * ops.max(x, axis=-1, keepdims=True),
    "Activation 'gate': mixes": layers.Activation("softmax", name="gate"),
    "has weights, and no rule": layers.SpectralNormalization(layers.Conv2D(4, 1)),
    "a Lambda layer": layers.TimeDistributed(layers.Lambda(lambda x: x)),
    "works along another axis": lambda x: layers.Dense(5)(layers.Permute((1, 3, 2))(x)),
}


@pytest.mark.parametrize("reason", REASONS)
def test_frozen_with_the_reason(reason):
    found = _frozen(REASONS[reason])
    assert any(re.search(reason, one) for one in found), found


def test_softmax_of_a_layer_that_makes_channels_freezes_them():
    inputs = keras.Input((5,))
    x = layers.Dense(6, activation="softmax", name="attention")(inputs)
    groups = kprune.channel_groups(keras.Model(inputs, layers.Dense(2)(x)))
    assert groups.groups[0].frozen == ["Dense 'attention': its activation softmax: mixes channels"]


def test_outputs_stay():
    assert _frozen(lambda x: x, last=None) == ["an output of the model"]


def test_frozen_models_prune_elsewhere():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(16, 3, name="free")(inputs)
    x = layers.Conv2D(8, 1, name="stuck")(x)
    x = layers.Flatten()(Opaque()(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    small = kprune.prune_channels(model, channels=0.5)
    assert small.get_layer("free").filters == 8
    assert small.get_layer("stuck").filters == 8
    with pytest.raises(ValueError, match=r"out of reach.*stuck \(Opaque '.*': a custom layer"):
        kprune.prune_channels(model, params=0.1)


def test_custom_layer_with_a_rule(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @kprune.structured.register_channel_rule(Gain)
    def gain(call):
        channels = call.channels()
        call.use(call.layer.gain, along={0: channels})
        return call.output(-1, channels)

    inputs = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D()(Gain()(layers.Conv2D(8, 3)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    randomize(model)
    graph, groups = graph_and_groups(model)
    chosen = [(group, np.arange(8) < 5) for group in groups if not group.frozen]
    assert len(chosen) == 1
    mask(chosen)
    x = random_inputs(model)
    small = kprune.structured.prune.cut(graph, gone_of(chosen))
    assert small.layers[2].gain.shape == (3,)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-5, 1e-5)


def test_rules_are_for_layer_classes():
    with pytest.raises(TypeError, match=r"Rules are for layer classes. Received: 3"):
        kprune.structured.register_channel_rule(3)(lambda call: None)


def test_rule_that_does_not_fit_its_variable(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    kprune.structured.register_channel_rule(Gain)(
        lambda call: call.use(call.layer.gain, makes={0: call.new(3)})
    )
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"gives 3 channels to axis 0 of .*gain"):
        kprune.channel_groups(keras.Model(inputs, Gain()(layers.Dense(5)(inputs))))


def test_groups_print_themselves():
    report = kprune.channel_groups(TOPOLOGIES["transformer"](), hidden=True)
    text = str(report)
    assert "multi_head_attention" in text
    assert "an output of the model" in text
    assert "not exactly" in text
    data = report.to_dict()["groups"]
    assert {"name", "channels", "producers", "consumers", "frozen"} <= set(data[0])


def test_costs_are_those_of_the_model():
    """One channel of a group less costs what the group says."""
    model = TOPOLOGIES["resnet"]()
    graph, groups = graph_and_groups(model)
    for group in groups:
        if not group.frozen:
            gone = np.arange(group.channels) == 1
            small = kprune.structured.prune.cut(graph, gone_of([(group, gone)]))
            assert model.count_params() - small.count_params() == group.parameters
            less = kprune.flops(model).total - kprune.flops(small).total
            assert less == group.flops


def test_inexact_groups_can_go():
    model = TOPOLOGIES["transformer"]()
    graph, groups = graph_and_groups(model)
    inexact = [group for group in groups if group.inexact]
    assert len(inexact) == 1
    chosen = choose(inexact, seed=1)
    assert chosen[0][1].any()
    small = kprune.structured.prune.cut(graph, gone_of(chosen))
    assert np.isfinite(outputs(small, random_inputs(small))[0]).all()


def test_layers_that_are_not_touched_are_reported():
    inputs = keras.Input((3, 8, 8, 2))
    x = layers.ConvLSTM2D(4, 3, name="video")(inputs)
    x = layers.Conv2D(6, 3, name="conv")(x)
    x = layers.GlobalAveragePooling2D()(Opaque(name="gain")(x))
    report = kprune.channel_groups(keras.Model(inputs, layers.Dense(3)(x)))
    (video, gain) = report.untouched
    assert video == ("video", "ConvLSTM2D", "has weights, and no rule")
    assert gain[:2] == ("gain", "Opaque")
    assert "(see kprune.structured.register_channel_rule); its `call` cannot be traced" in gain[2]
    assert report.to_dict()["untouched"][0]["layer"] == "video"
    assert "video (ConvLSTM2D) keeps its own channels" in str(report)


def _bidirectional(forward, backward, **options):
    inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="before")(inputs)
    x = layers.Bidirectional(forward, backward_layer=backward, **options)(x)
    x = layers.Concatenate()(x) if isinstance(x, list | tuple) else x
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: _bidirectional(
                layers.LSTM(4), layers.LSTM(3, go_backwards=True), merge_mode=None
            ),
            "different numbers of units",
        ),
        (
            lambda: _bidirectional(layers.GRU(4), layers.RNN(layers.GRUCell(4), go_backwards=True)),
            "only there for LSTM, GRU and SimpleRNN",
        ),
    ],
)
def test_unlike_directions_are_left_as_they_are(model, reason):
    report = kprune.channel_groups(model())
    assert reason in report.untouched[0][2]
    assert any(reason in one for one in report.groups[0].frozen)


def test_directions_of_two_kinds():
    model = _bidirectional(layers.LSTM(4), layers.GRU(4, go_backwards=True))
    randomize(model)
    graph, groups = graph_and_groups(model)
    chosen = [(group, np.arange(group.channels) < 2) for group in groups if not group.frozen]
    assert len(chosen) == 2
    mask(chosen)
    x = random_inputs(model)
    small = kprune.structured.prune.cut(graph, gone_of(chosen))
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-5, 1e-5)


def _two_sizes(last):
    inner = x = keras.Input((None, None, 3))
    for filters in (24, 32):
        x = layers.Conv2D(filters, 3)(x)
    trunk = keras.Model(inner, x)
    first, second = keras.Input((16, 16, 3)), keras.Input((9, 9, 3))
    both = layers.Concatenate()([last(trunk(first)), last(trunk(second))])
    return keras.Model([first, second], layers.Dense(3)(both))


def test_a_shared_model_at_two_sizes_costs_both():
    model = _two_sizes(layers.GlobalAveragePooling2D())
    small = kprune.prune_channels(model, flops=0.5, round_to=1)
    share = kprune.flops(small).total / kprune.flops(model).total
    assert abs(share - 0.5) <= 0.02 * 0.5


def test_a_shared_model_that_flattens_two_sizes():
    inner = keras.Input((None, 3))
    trunk = keras.Model(inner, layers.Flatten()(layers.Conv1D(8, 1)(inner)))
    first, second = keras.Input((6, 3)), keras.Input((4, 3))
    x = layers.Concatenate()([trunk(first), trunk(second)])
    report = kprune.channel_groups(keras.Model([first, second], layers.Dense(3)(x)))
    assert any("another number of them" in one for one in report.groups[0].frozen)
