"""Custom layers that are made of layers: what is followed, and what becomes of them."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.layer_copy import copied_layer
from kprune.structured.rules import registry
from tests.helpers.masking import gone_of, graph_and_groups, mask, outputs, random_inputs, randomize
from tests.helpers.topologies import TOPOLOGIES
from tests.helpers.topologies.custom import (
    ClassToken,
    EncoderBlock,
    FusedAttention,
    TransformerBlock,
)

register = keras.saving.register_keras_serializable(package="opening_tests")


def _model(layer, shape=(6, 8)):
    inputs = keras.Input(shape)
    x = layers.GlobalAveragePooling1D()(layer(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    randomize(model)
    return model


def _forms(model, **options):
    return {name: stays for name, _, stays in kprune.channel_groups(model, **options).opened}


def _cut_is_masked(model, share=2, only=lambda group: True):
    """Remove some channels of each group; return the smaller model, checked."""
    graph, groups = graph_and_groups(model)
    free = [g for g in groups if not g.frozen and not g.inexact and only(g)]
    chosen = [(group, np.arange(group.channels) < group.channels // share) for group in free]
    before, x = model.get_weights(), random_inputs(model)
    mask(chosen)
    expected = outputs(model, x)
    small = kprune.structured.surgery.cut(graph, gone_of(chosen))
    model.set_weights(before)
    for one, other in zip(outputs(small, x), expected, strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)
    return small


def test_an_argument_says_the_number():
    """What the constructor can say makes a layer of the same class."""
    model = _model(TransformerBlock(8, 2, 20, name="block"))
    small = _cut_is_masked(model, only=lambda group: "wide" in group.name)
    block = small.get_layer("block")
    assert isinstance(block, TransformerBlock)
    assert block.get_config()["width"] == 10


def test_a_ratio_says_the_number():
    model = _model(EncoderBlock(8, 2, ratio=2.5, name="block"))
    small = _cut_is_masked(model)
    block = small.get_layer("block")
    assert isinstance(block, EncoderBlock)
    assert int(8 * block.get_config().get("ratio", 0)) in (0, 10)
    assert tuple(block.wide.kernel.shape) == (8, 10)


def test_the_layers_inside_take_its_place(tmp_path):
    """What no argument says makes plain Keras layers, which need no class to be loaded."""
    model = _model(TransformerBlock(8, 2, 20, name="block"))
    small = _cut_is_masked(model)
    assert isinstance(small.get_layer("block"), keras.Model)
    small.save(tmp_path / "small.keras")
    keras.saving.get_custom_objects().pop("topologies>TransformerBlock")
    try:
        loaded = keras.models.load_model(tmp_path / "small.keras")
    finally:
        register(TransformerBlock)
        keras.saving.get_custom_objects()["topologies>TransformerBlock"] = TransformerBlock
    x = random_inputs(model)
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(small, x)[0], 1e-5, 1e-5)


def test_a_layer_that_is_called_twice_stays_one(tmp_path):
    inputs, block = keras.Input((6, 8)), FusedAttention(8, 4, name="block")
    x = layers.GlobalAveragePooling1D()(block(block(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    randomize(model)
    small = _cut_is_masked(model)
    assert sum(isinstance(layer, keras.Model) for layer in small.layers) == 1
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = random_inputs(model)
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(small, x)[0], 1e-5, 1e-5)


@register
class InTraining(FusedAttention):
    def call(self, x, training=None):
        y = super().call(x)
        return y * 0.5 if training else y


@register
class Masked(FusedAttention):
    def call(self, x, mask=None):
        y = super().call(x)
        return y if mask is None else y * ops.cast(mask[..., None], y.dtype)


@register
class OfLength(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.last = layers.Dense(9, name="first"), layers.Dense(8, name="last")

    def call(self, x):
        return self.last(self.first(x)) * ops.cast(ops.arange(ops.shape(x)[1])[:, None], "float32")


def test_why_a_layer_stays_of_its_class():
    assert _forms(_model(InTraining(8, 2, name="a"))) == {
        "a": "its `call` does something else in training"
    }
    tokens = keras.Input((6,), dtype="int32")
    x = Masked(8, 2, name="a")(layers.Embedding(9, 8, mask_zero=True)(tokens))
    assert _forms(keras.Model(tokens, x)) == {"a": "it is given a mask"}
    assert _forms(_model(EncoderBlock(8, 2, name="a")))["a"] == (
        "'a' has weights of its own (scale)"
    )
    assert _forms(_model(OfLength(name="a"), (None, 8)), free_dim=6) == {
        "a": "its `call` computes with sizes that the model leaves open"
    }


def test_what_stays_of_its_class_and_cannot_say_the_number_is_frozen():
    report = kprune.channel_groups(_model(InTraining(8, 2, name="a")))
    (group,) = (group for group in report if group.name == "a/qkv")
    assert "no argument of its class says their number" in group.frozen[0]
    assert "does something else in training" in group.frozen[0]
    assert "a (InTraining), with fewer channels: of the same class: its `call`" in str(report)
    json.dumps(report.to_dict())


@register
class Scaled(layers.Layer):
    """A bottleneck with a scale and a shift of its own between its layers."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.first, self.last = layers.Dense(width, name="first"), layers.Dense(8, name="last")

    def build(self, shape):
        self.first.build(shape)
        self.last.build((*shape[:-1], self.width))
        self.scale = self.add_weight(shape=(self.width,), name="scale")
        self.shift = self.add_weight(shape=(1, self.width), name="shift")

    def call(self, x):
        return self.last(ops.relu(self.scale * self.first(x) + self.shift))


def test_weights_of_its_own_that_go_with_the_channels():
    model = _model(Scaled(12, name="a"))
    small = _cut_is_masked(model)
    assert [tuple(v.shape) for v in small.get_layer("a").weights][:2] == [(6,), (1, 6)]
    report = kprune.channel_groups(model)
    (group,) = (group for group in report if not group.frozen)
    assert [slot.use.variable.name for slot in group.slots].count("scale") == 1


@register
class Doubled(layers.Layer):
    """An argument that counts in twos, and one whose change makes something else longer."""

    def __init__(self, width, heads=2, **options):
        super().__init__(**options)
        self.first = layers.Dense(width // 2, activation="relu", name="first")
        self.split = layers.Dense(24 // heads, name="split")
        self.last = layers.Dense(8, name="last")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x):
        return self.scale * self.last(self.split(self.first(x)))


def test_an_argument_that_counts_in_twos():
    model = _model(Doubled(24, name="a"))
    small = _cut_is_masked(model, only=lambda group: group.name == "a/first")
    assert tuple(small.get_layer("a").first.kernel.shape) == (8, 6)
    frozen = {g.name: g.frozen for g in kprune.channel_groups(model)}
    assert not frozen["a/first"]
    assert "no argument" in frozen["a/split"][0]


@register
class Forgetful(FusedAttention):
    def get_config(self):
        return {**super().get_config(), "steps_so_far": 3}


@register
class Wordless(layers.Layer):
    def __init__(self, width, initializer="ones", **options):
        super().__init__(**options)
        self.width, self.initializer = width, keras.initializers.get(initializer)
        self.first, self.last = layers.Dense(width, name="first"), layers.Dense(8, name="last")
        self.scale = self.add_weight(shape=(), initializer=self.initializer, name="scale")

    def get_config(self):
        return {**super().get_config(), "width": self.no_such_attribute}

    def call(self, x):
        return self.scale * self.last(self.first(x))


@pytest.mark.parametrize("layer", [lambda: Forgetful(8, 2), lambda: Wordless(12)])
def test_configurations_that_are_wrong(layer, tmp_path):
    """Arguments too many, or none: the constructor says what it takes, also to who loads it."""
    model = _model(layer())
    small = _cut_is_masked(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = random_inputs(model)
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(small, x)[0], 1e-5, 1e-5)


def test_the_model_is_left_as_it_was():
    block = TransformerBlock(8, 2, 20, name="block")
    model = _model(block)
    before, output = model.get_weights(), block.output
    kprune.channel_groups(model)
    kprune.prune_channels(model, flops=0.6, round_to=2)
    assert block.output is output
    with pytest.raises(AttributeError):
        _ = block.attention.output  # No graph of the user's has it.
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_heads_may_be_left():
    model = TOPOLOGIES["conformer"]()
    frozen = {g.name: g.frozen for g in kprune.channel_groups(model, heads=False) if not g.counted}
    assert frozen == {"conformer/attention": ["heads=False"]}
    small = kprune.prune_channels(model, channels=0.7, round_to=1, heads=False)
    (attention,) = (
        layer
        for layer in small._flatten_layers()
        if isinstance(layer, keras.layers.MultiHeadAttention)
    )
    assert attention.num_heads == 3


@pytest.mark.slow
def test_the_hidden_size_is_an_option():
    model = TOPOLOGIES["conformer"]()
    frozen = {g.name: g.frozen for g in kprune.channel_groups(model)}
    assert "hidden=True lets them go" in frozen["stem"][0]
    assert not {g.name: g.frozen for g in kprune.channel_groups(model, hidden=True)}["stem"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = kprune.prune_channels(model, channels=0.5, round_to=1, hidden=True)
    assert small.get_layer("stem").filters < 12


@register
class Positioned(layers.Layer):
    """Adds an embedding of the positions, as the Keras examples have it for text and images."""

    def __init__(self, steps, size, batched, **options):
        super().__init__(**options)
        self.steps, self.batched = steps, batched
        self.project, self.positions = layers.Dense(size), layers.Embedding(steps, size)

    def call(self, x):
        steps = ops.arange(0, self.steps)
        if self.batched:
            steps = ops.expand_dims(steps, axis=0)
        return self.project(x) + self.positions(steps)


@pytest.mark.parametrize("batched", [False, True])
def test_an_embedding_of_positions_goes_with_the_channels(batched):
    inputs = keras.Input((6, 8))
    x = layers.Dense(10, name="after")(Positioned(6, 16, batched, name="embed")(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    randomize(model)
    assert _forms(model)["embed"] == "it computes with weights before it sees its inputs"
    small = _cut_is_masked(model)
    assert small.get_layer("embed").positions.output_dim == 8
    assert small.get_layer("after").kernel.shape == (8, 10)


@register
class PlacesOnly(layers.Layer):
    """An output of the size of the input that has nothing of it, as KerasHub has positions."""

    def build(self, shape):
        self.places = self.add_weight(shape=(9, shape[-1]), name="places")

    def call(self, x):
        *_, steps, size = x.shape
        places = ops.convert_to_tensor(self.places)
        return ops.broadcast_to(ops.slice(places, (0, 0), (steps, size)), ops.shape(x))


@register
class Untraceable(layers.Layer):
    """One scale and one shift, by functions that no graph records."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(1, shape[-1]), name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("not here")
        return x * ops.abs(self.scale) + self.shift

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@register
class Reversed(layers.Layer):
    """Weights of its own that go with the channels, but not at their places."""

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, x):
        return ops.flip(x, axis=-1) + self.shift


@pytest.mark.parametrize("layer", [PlacesOnly, ClassToken, Untraceable, Reversed])
def test_weights_of_its_own_by_trying(layer):
    """What cannot be followed is found out by making the layer once more, for fewer channels."""
    inputs = keras.Input((6, 8))
    x = layers.Dense(16, name="before")(inputs)
    x = layers.Concatenate(axis=1)([x, layer(name="own")(x)])
    x = layers.Dense(10, name="after")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    randomize(model)
    small = _cut_is_masked(model)
    is_reversed = layer is Reversed  # Each channel meets the one that is opposite.
    assert small.get_layer("own").weights[0].shape[-1] == 8
    assert kprune.channel_groups(model).groups[0].channels == (8 if is_reversed else 16)


@register
class RootMeanSquare(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        mean = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(mean + 1e-6) * self.scale


def test_a_norm_that_is_written_out():
    """Channels that a mean is over are those of `hidden=True`."""
    inputs = keras.Input((6, 8))
    x = layers.Dense(16, name="before")(inputs)
    x = layers.Dense(10, name="after")(RootMeanSquare(name="norm")(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    group = next(iter(kprune.channel_groups(model)))
    assert "is over the channels; hidden=True" in group.frozen[0]
    small = kprune.prune_channels(model, channels=0.5, round_to=1, hidden=True)
    assert small.get_layer("norm").scale.shape == (8,)


def test_nothing_is_said_of_what_is_tried(recwarn):
    """Keras warns of layers that do not fit, which trying out other sizes makes."""
    kprune.channel_groups(_model(TransformerBlock(8, 2, 20)), hidden=True)
    assert not [str(one.message) for one in recwarn if one.category is UserWarning]


@pytest.mark.slow
def test_channels_during_fit():
    """The pattern masks what is inside a custom layer, and `shrink` takes it out."""
    keras.utils.set_random_seed(0)
    model = _model(TransformerBlock(8, 2, 20, name="block"))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 6, 8)).astype("float32")
    schedule = kprune.ConstantSparsity(0.5, begin_step=1, frequency=1)
    pruning = kprune.Pruning(schedule=schedule, pattern=kprune.Channels())
    model.fit(x, np.zeros((32, 2)), epochs=2, batch_size=8, verbose=0, callbacks=[pruning])
    small = kprune.shrink(kprune.strip_pruning(model))
    assert small.count_params() < 0.8 * model.count_params()
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), 1e-4, 1e-4)


@register
class Mistaken(FusedAttention):
    """Its configuration has an entry of another name than the argument, which no attribute has."""

    def __init__(self, size, heads, width=9, **options):
        super().__init__(size, heads, **options)
        self.out = layers.Dense(width, name="out")

    def get_config(self):
        config = super().get_config()
        config["widht"] = config.pop("width", 9)
        return config


def test_a_configuration_that_lacks_an_argument_is_refused():
    """No default takes the place of what nothing tells."""
    layer = Mistaken(8, 2, width=11)
    layer(np.zeros((1, 6, 8), "float32"))
    with pytest.raises(ValueError, match="cannot be made again"):
        copied_layer(layer)


@register
class ForgetsItsScale(layers.Layer):
    """Must stay of its class, for its weight, and its configuration says nothing of `scale`."""

    def __init__(self, scale=1.0, **options):
        super().__init__(**options)
        self.scale, self.inner = scale, layers.Dense(8)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x):
        return self.scale * self.gain * self.inner(x)

    def get_config(self):
        return layers.Layer.get_config(self)


@register
class ForgetsAndIsNotLookedInto(ForgetsItsScale):
    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("arrays only")
        return super().call(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@register
class ForgetsWithoutWeights(layers.Layer):
    def __init__(self, scale=1.0, **options):
        super().__init__(**options)
        self.scale = scale

    def call(self, x):
        return self.scale * ops.tanh(x)

    def get_config(self):
        return layers.Layer.get_config(self)


@pytest.mark.parametrize(
    "forgetful", [ForgetsItsScale, ForgetsAndIsNotLookedInto, ForgetsWithoutWeights]
)
@pytest.mark.parametrize(("scale", "warned"), [(1.0, 0), (3.0, 1)])
def test_a_copy_that_computes_something_else_is_warned_of(forgetful, scale, warned, recwarn):
    inputs = keras.Input((6, 8))
    x = forgetful(scale, name="forgets")(inputs)
    x = layers.Dense(4)(layers.Dense(20, name="wide")(x))
    model = keras.Model(inputs, x)
    stays = {"forgets": None} if model.get_layer("forgets").weights else {}
    small = kprune.prune_channels(model, channels=0.5, round_to=1, layers=stays)
    assert small.get_layer("wide").units == 10
    found = [one for one in recwarn if "was not seen to compute" in str(one.message)]
    assert len(found) == warned


class Projection(layers.Layer):
    """As in docs/channels.md."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x):
        return x @ self.kernel


def test_the_rule_in_the_docs(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @kprune.structured.register_channel_rule(Projection)
    def projection(call):
        made = call.new(call.layer.units, "units")
        call.use(call.layer.kernel, {1: made}, {0: call.channels()}, applications=1)
        return call.output(-1, made)

    inputs = keras.Input((6,))
    x = Projection(12, name="project")(layers.Dense(10, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(ops.relu(x)))
    randomize(model)
    small = _cut_is_masked(model)
    assert small.get_layer("project").units == 6
