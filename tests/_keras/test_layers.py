"""Each function of `kprune._keras.layers` does on this Keras what it says."""

import keras

from kprune._keras import layers


class Block(keras.layers.Layer):
    """Two layers and a layer in a list, which holds another one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(2, name="first")
        self.others = [keras.layers.TimeDistributed(keras.layers.Dense(2, name="inner"))]

    def build(self, shape):
        self.first.build(shape)
        self.others[0].build((None, 3, 2))
        self.scale = self.add_weight(shape=(2,), name="scale")
        self.count = self.add_weight(shape=(), name="count", trainable=False)

    def call(self, inputs):
        return self.first(inputs)


def built():
    block = Block(name="block")
    block.build((None, 4))
    return block


def names(things):
    return [thing.name for thing in things]


def test_flatten_layers():
    block = built()
    found = layers.flatten_layers(block)
    assert found[0] is block
    assert {block.first, block.others[0], block.others[0].layer} == set(found[1:])
    assert layers.flatten_layers(block, include_self=False) == found[1:]


def test_flatten_layers_of_a_model_in_a_model():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="deep")])
    model = keras.Sequential([keras.Input((4,)), inner])
    assert "deep" in names(layers.flatten_layers(model))


def test_sublayers():
    block = built()
    assert layers.sublayers(block) == [block.first, block.others[0]]
    layers.sublayers(block).clear()  # It is a list of its own.
    assert layers.sublayers(block)


def test_own_variables():
    assert names(layers.own_variables(built())) == ["scale", "count"]


def test_made_trainable():
    block = built()
    block.trainable = False
    assert names(layers.made_trainable(block)) == ["scale"]
    assert layers.made_trainable(keras.Operation()) == []


def test_made_not_trainable():
    assert names(layers.made_not_trainable(built())) == ["count"]


def test_copy_own_trainable():
    old, new = built(), built()
    old.trainable = False
    layers.copy_own_trainable(old, new)
    assert not new.trainable
    assert new.first.trainable
    assert new.scale.trainable


def test_attributes():
    block = built()
    found = layers.attributes(block)
    assert found["first"] is block.first
    assert list(found["others"]) == block.others
    assert "scale" in found
    # In no attribute that is left is the list of a layer's parts, which `sublayers` is.
    lists = [value for value in found.values() if isinstance(value, list)]
    assert not any(item is block.first for value in lists for item in value)


def test_copy_with_attributes():
    block, other = built(), keras.layers.Dense(7, name="other")
    new = layers.copy_with_attributes(block, {"first": other, "scale": None})
    assert type(new) is Block
    assert new.first is other
    assert new.scale is None
    assert new.name == "block"
    assert block.first is not other
    assert block.scale is not None
    assert layers.sublayers(block)[0] is block.first


def test_takes_training():
    assert layers.takes_training(keras.layers.Dropout(0.5))
    assert not layers.takes_training(keras.layers.Flatten())
    assert not layers.takes_training(keras.Operation())
    inputs = keras.Input((2,))
    assert layers.takes_training(keras.Model(inputs, keras.layers.Dense(2)(inputs)))


def test_has_own_build():
    class NoWeights(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    assert layers.has_own_build(Block())
    assert not layers.has_own_build(NoWeights())


def test_is_preprocessing():
    assert layers.is_preprocessing(keras.layers.Rescaling(2.0))
    assert layers.is_preprocessing(keras.layers.CategoryEncoding(2))
    assert not layers.is_preprocessing(keras.layers.Dense(2))


def test_layer_scale():
    layer = layers.layer_scale()(init_values=0.5, projection_dim=3)
    layer.build((None, 3))
    assert tuple(layer.gamma.shape) == (3,)
    assert layer.get_config()["projection_dim"] == 3


def test_lambda_output_shape():
    layer = keras.layers.Lambda(lambda x: x, output_shape=(3,))
    assert layers.lambda_output_shape(layer) == (3,)
    assert layers.lambda_output_shape(keras.layers.Lambda(lambda x: x)) is None


def test_attention_axes():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, 5, 4), (None, 5, 4))
    assert tuple(layers.attention_axes(layer)) == (1,)


def test_attention_gate():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, 5, 4), (None, 5, 4))
    assert layers.attention_gate(layer) is None


def test_attention_gate_where_there_is_one():
    try:
        layer = keras.layers.MultiHeadAttention(2, 3, use_gate=True)
    except (TypeError, ValueError):
        return  # This Keras has none, for which the function says None.
    layer.build((None, 5, 4), (None, 5, 4))
    assert tuple(layers.attention_gate(layer).kernel.shape) == (4, 2, 3)


def test_grouped_attention_parts():
    layer = keras.layers.GroupQueryAttention(3, 4, 2)
    layer.build((None, 5, 6), (None, 5, 6))
    parts = layers.grouped_attention_parts(layer)
    assert tuple(parts["query"].kernel.shape) == (6, 4, 3)
    assert tuple(parts["key"].kernel.shape) == tuple(parts["value"].kernel.shape) == (6, 2, 3)
    assert tuple(parts["output"].kernel.shape) == (4, 3, 6)
    assert parts["gate"] is None
