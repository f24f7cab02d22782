"""What is made again is what it was: configuration, state, ties, and what is trained."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune._keras.graph import call_nodes
from kprune._keras.layers import flatten_layers as _flat
from kprune.graphs.rebuild import Rebuild
from kprune.graphs.walk import graph_of
from kprune.structured.surgery import cut
from tests.helpers.graph_models import MODELS
from tests.helpers.masking import (
    gone_of,
    graph_and_groups,
    mask,
    outputs,
    random_inputs,
    randomize,
)


def _halved(model):
    """The model without some channels of each group, and it, with zeros in their place."""
    graph, groups = graph_and_groups(model)
    chosen = [(g, np.arange(g.channels) < g.channels // 2) for g in groups if not g.frozen]
    mask(chosen)
    return cut(graph, gone_of(chosen))


AUGMENTATIONS = {
    "brightness": lambda: layers.RandomBrightness(0.2, value_range=[0, 255]),
    "translation": lambda: layers.RandomTranslation([-0.1, 0.1], [-0.1, 0.1]),
    "rand_augment": lambda: layers.RandAugment([0, 255]),
    "solarization": lambda: layers.Solarization(),
    "pipeline": lambda: layers.Pipeline([layers.Rescaling(0.5), layers.RandomFlip()]),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_configurations_with_lists(name):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            AUGMENTATIONS[name](),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    randomize(model)
    small = _halved(model)
    assert small.layers[1].filters == 4
    x = random_inputs(model)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)
    first = model.layers[0].get_config()
    if name != "pipeline":  # Whose layers say how they were built.
        assert small.layers[0].get_config() == first


def test_what_layers_learned_by_adapt_is_copied():
    random = np.random.default_rng(0)
    normalization, bins = layers.Normalization(), layers.Discretization(num_bins=4)
    normalization.adapt(random.normal(3, 2, (50, 6)).astype("float32"))
    bins.adapt(random.normal(3, 2, (50, 6)).astype("float32"))
    inputs = keras.Input((6,))
    x = layers.Concatenate()([normalization(inputs), ops.cast(bins(inputs), "float32")])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8, activation="relu")(x)))
    x = random.normal(3, 2, (5, 6)).astype("float32")
    small = _halved(model)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)


def _trunk():
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(16, name="p")(inputs))
    return keras.Model(inputs, layers.Dense(8, name="q")(x), name="trunk")


def test_what_is_trained_stays_so_variable_by_variable():
    trunk = _trunk()
    trunk.trainable = False
    trunk.get_layer("q").trainable = True
    stack = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8)])
    stack.layers[0].trainable = False
    inputs = keras.Input((8,))
    recurrent = layers.Bidirectional(layers.LSTM(4), name="both")
    x = recurrent(layers.Reshape((1, 8))(stack(trunk(inputs))))
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.Dense(9, name="d")(x)))
    recurrent.forward_layer.trainable = False
    model.get_layer("head").bias.trainable = False
    model.get_layer("d").kernel.trainable = False
    small = kprune.prune_channels(model, channels=0.7, round_to=1)
    assert small.count_params() < model.count_params()

    def layer_flags(model):
        return {layer.path: layer.trainable for layer in model._flatten_layers()}

    assert layer_flags(small) == layer_flags(model)
    assert [v.path for v in small.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    flags = [[v.trainable for v in one.weights] for one in (small, model)]
    assert flags[0] == flags[1]


class _Tied(layers.Layer):
    """The transposed weights of another layer."""

    def __init__(self, source, **options):
        super().__init__(**options)
        self.source = source

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.source.weights[0]))

    def get_config(self):
        source = keras.saving.serialize_keras_object(self.source)
        return {**super().get_config(), "source": source}

    @classmethod
    def from_config(cls, config):
        source = keras.saving.deserialize_keras_object(config["source"])
        return cls(**{**config, "source": source})


class _TiedVariable(_Tied):
    """One that has the other layer's variable as its own."""

    def build(self, shape):
        self.kernel = self.source.weights[0]


class _Reluctant(layers.Layer):
    def __init__(self, source, **options):
        super().__init__(**options)
        self.source = source

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.source.weights[0]))


def _by_einsum(x, source):
    return ops.einsum("btd,vd->btv", x, source.weights[0])


def _by_lambda(x, source):
    return layers.Lambda(lambda t: ops.matmul(t, ops.transpose(source.weights[0])), name="tied")(x)


def _by_time(x, source):
    return layers.TimeDistributed(source, name="tied")(x)


def _language_model(tie, source=None):
    source = source or layers.Embedding(20, 8, name="source")
    of_words = isinstance(source, layers.Embedding)
    inputs = keras.Input((5,), dtype="int32") if of_words else keras.Input((5, 8))
    x = layers.Dense(8, name="last")(layers.Dense(12, activation="relu")(source(inputs)))
    model = keras.Model(inputs, tie(x, source))
    randomize(model)
    return model


TIES = {
    "layer": lambda: _language_model(lambda x, source: _Tied(source, name="tied")(x)),
    "variable": lambda: _language_model(lambda x, source: _TiedVariable(source, name="tied")(x)),
    "argument of an operation": lambda: _language_model(_by_einsum),
    "captured by a function": lambda: _language_model(_by_lambda),
    "one layer twice": lambda: _language_model(
        lambda x, source: source(x, reverse=True), layers.ReversibleEmbedding(20, 8, name="source")
    ),
    "wrapped": lambda: _language_model(_by_time, layers.Dense(8, use_bias=False, name="source")),
}


@pytest.mark.parametrize("name", TIES)
def test_tied_weights_stay_tied(name):
    model = TIES[name]()
    with keras.saving.custom_object_scope({"_Tied": _Tied, "_TiedVariable": _TiedVariable}):
        small = _halved(model)
    assert small.count_params() < model.count_params()
    assert len(small.trainable_variables) == len(model.trainable_variables)
    x = random_inputs(model)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)
    # What one use of the weights does to them, all others see.
    for one in (model, small):
        (source, *_) = one.get_layer("source").weights
        source.assign(source * 3 + 1)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)


def test_tied_channels_stay_with_the_reason():
    report = kprune.channel_groups(TIES["layer"]())
    (group,) = (group for group in report if "source" in group.producers)
    assert group.frozen == ["Embedding 'source': its variable 'embeddings' is also used by 'tied'"]


def test_a_layer_that_cannot_be_made_again_is_named_in_one_line():
    model = _language_model(lambda x, source: _Reluctant(source, name="tied")(x))
    with pytest.raises(
        ValueError, match=r"'tied' cannot be made again .* `get_config\(\)`"
    ) as error:
        kprune.prune_channels(model, channels=0.5)
    assert "\n" not in str(error.value)


class _OwnVariable(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.between = layers.Dense(8, name="body"), layers.Dense(8, name="between")
        self.head = layers.Dense(2)
        self.position = self.add_weight(shape=(8,), name="position")

    def call(self, x):
        return self.head(self.between(ops.relu(self.body(x) + self.position)))


def test_a_variable_of_the_model_itself_becomes_a_constant_and_that_is_said():
    model = _OwnVariable()
    x = np.ones((3, 6), "float32")
    model(x)
    randomize(model)
    report = kprune.channel_groups(model)
    assert "a variable that may change" in report.groups[0].frozen[0]
    with pytest.warns(UserWarning, match="position is no layer's variable"):
        small = kprune.prune_channels(model, channels=0.8, round_to=1)
    assert small.get_layer("body").units == 8
    assert small.get_layer("between").units < 8


def _inputs_and_outputs(model):
    inputs = keras.tree.map_structure(lambda t: (t.name, t.shape, t.dtype), model.inputs)
    return inputs, [
        [(path, t.shape, t.dtype) for path, t in keras.tree.flatten_with_path(one)]
        for one in (graph_of(model).input, graph_of(model).output)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_rebuilt_model_is_a_copy(name):
    model = MODELS[name]()
    randomize(model)
    calls = [len(call_nodes(layer)) for layer in _flat(model)]
    x = random_inputs(model)
    copy = Rebuild(model).run()
    assert type(copy) is type(model)
    assert copy.name == model.name
    assert _inputs_and_outputs(copy) == _inputs_and_outputs(model)
    assert graph_of(copy).output_names == graph_of(model).output_names
    mine, theirs = _flat(copy), _flat(model)
    assert [(one.name, type(one)) for one in mine] == [(one.name, type(one)) for one in theirs]
    assert [one.trainable for one in mine] == [one.trainable for one in theirs]
    assert [v.path for v in copy.weights] == [v.path for v in model.weights]
    assert [v.trainable for v in copy.weights] == [v.trainable for v in model.weights]
    assert not {id(v) for v in copy.weights} & {id(v) for v in model.weights}
    for one, other in zip(outputs(copy, x), outputs(model, x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(call_nodes(layer)) for layer in _flat(model)] == calls
    for one in (copy, model):  # What is tied is tied in the copy.
        for variable in one.weights:
            variable.assign(variable * 2)
    for one, other in zip(outputs(copy, x), outputs(model, x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_called_twice_is_one_in_the_copy():
    copy = Rebuild(MODELS["shared_model_and_layer"]()).run()
    assert [layer.name for layer in copy.layers].count("inner") == 1
    assert len(copy.weights) == 6
