"""Layers and operations that move, mix, split or join channels."""

import keras
from keras import layers, ops

from tests.helpers.topologies.parts import classifier, conv_norm_relu, hard_swish
from tests.helpers.topologies.registry import VOCABULARY, topology


@topology(frozen="head")
def depth_to_space_inside():
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    x = ops.depth_to_space(x, 2)
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(x)
    x = ops.space_to_depth(x, 2)
    x = layers.Conv2D(7, 1, activation="relu")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def depth_to_space_by_hand():
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(20, 3, padding="same", activation="relu")(x)
    x = ops.reshape(x, (-1, 4, 4, 2, 2, 5))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, 8, 8, 5))
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = layers.Permute((3, 1, 2))(layers.Reshape((64, 1, 6))(x))
    x = layers.Flatten()(layers.Permute((2, 3, 1))(x))
    return classifier(inputs, x)


@topology(frozen="head")
def shared_layers():
    """Layers called twice without a model around them, a Reshape among them."""
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    shared = [
        layers.Conv2D(6, 3), layers.BatchNormalization(), layers.Reshape((16, 6)), layers.LSTM(4)
    ]  # fmt: skip
    ends = []
    for x in (a, b):
        for layer in shared:
            x = layer(x)
        ends.append(x)
    return classifier([a, b], layers.Maximum()(ends))


@topology(frozen="head")
def grouped_convolutions():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, activation="relu")(x)
    x = layers.Conv2D(12, 3, groups=2, activation="relu")(x)
    x = layers.Conv2D(12, 3, groups=12, padding="same")(layers.BatchNormalization()(x))
    x = layers.Conv2D(24, 3, groups=12, padding="same", activation="relu")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def depth_multipliers():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")(x)
    x = layers.PReLU()(x)
    return classifier(inputs, layers.Flatten()(x))


@topology(frozen="head")
def normalizations():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3)(x)
    x = layers.ReLU()(layers.GroupNormalization(4)(x))
    x = layers.Conv2D(6, 1)(x)
    x = layers.RMSNormalization(axis=-1)(x)
    x = layers.Conv2D(8, 3)(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def nested():
    block = keras.Sequential(
        [keras.Input((6, 6, 8)), layers.Conv2D(7, 3), layers.ReLU(), layers.Conv2D(6, 1)]
    )
    a = keras.Input((4, 4, 6))
    outer = keras.Model(a, keras.Sequential([layers.Conv2D(9, 1), layers.ReLU()])(a))
    x = inputs = keras.Input((6, 6, 3))
    x = outer(block(layers.Conv2D(8, 1)(x)))
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def channel_shuffle():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(12, 1, activation="relu")(x)
    x = layers.Conv2D(12, 1, groups=2)(x)
    x = layers.Reshape((4, 4, 2, 6))(x)
    x = layers.Reshape((4, 4, 12))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.Conv2D(8, 3, groups=2, activation="relu")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def splits():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    a, b, c = ops.split(x, 3, axis=-1)
    x = ops.concatenate([layers.Conv2D(5, 1)(a), ops.tanh(b) * ops.sigmoid(c)], -1)
    left, right = x[..., :5], x[:, 1:3, :, 5:]
    left = layers.Cropping2D(((1, 1), (0, 0)))(left)
    x = layers.Concatenate()([right, layers.Conv2D(4, 1)(left)])
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="score label")
def dictionaries():
    ids = keras.Input((7,), dtype="int32", name="text")
    image = keras.Input((6, 6, 1), name="image")
    meta = keras.Input((3,), name="meta")
    x = layers.Flatten()(layers.Embedding(VOCABULARY, 4)(ids))
    y = layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(image))
    z = layers.Dense(8, activation="relu")(layers.Concatenate()([x, y, meta]))
    outputs = {
        "score": layers.Dense(1, name="score")(z),
        "label": layers.Dense(4, name="label")(z),
    }
    return keras.Model({"text": ids, "rest": (image, meta)}, outputs)


@topology(frozen="place head")
def gated():
    """Broadcasting of all kinds: a gate for a channel, for a place, and for all."""
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    s = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = x * ops.reshape(s, (-1, 1, 1, 8))
    x = x * layers.Conv2D(1, 1, activation="sigmoid", name="place")(x)
    x = ops.where(x > 0.1, x, 0.2 * x) + ops.expand_dims(ops.expand_dims(s, 1), 1)
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = ops.mean(layers.Conv2D(6, 3, activation="leaky_relu")(x), axis=(1, 2))
    return classifier(inputs, x)


@topology(frozen="head")
def convolutions_3d():
    x = inputs = keras.Input((4, 6, 6, 2))
    x = layers.Conv3D(6, 3, padding="same", activation="relu")(x)
    x = layers.Conv3DTranspose(5, 2, strides=2)(layers.MaxPooling3D(2)(x))
    return classifier(inputs, layers.GlobalAveragePooling3D()(x))


@topology(frozen="head")
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    x = inputs = keras.Input((6, 6, 3))
    x = conv_norm_relu(x, 8)
    x = layers.Add()([x, conv_norm_relu(x, 8)])
    x = hard_swish(x)
    head = layers.Dense(3, name="head", dtype="float32")
    model = keras.Model(inputs, head(layers.Flatten()(x)))
    keras.config.set_dtype_policy("float32")
    return model


if keras.backend.backend() != "tensorflow":  # which has no such convolutions on processors

    @topology(frozen="head")
    def channels_first():
        first = {"data_format": "channels_first"}
        x = inputs = keras.Input((3, 8, 8))
        x = layers.Conv2D(6, 3, padding="same", **first)(x)
        x = layers.ReLU()(layers.BatchNormalization(axis=1)(x))
        x = layers.DepthwiseConv2D(3, padding="same", **first)(x)
        x = layers.MaxPooling2D(**first)(x)
        x = layers.Concatenate(axis=1)([x, layers.Conv2D(4, 1, **first)(x)])
        x = layers.PReLU(shared_axes=[2, 3])(layers.Conv2D(7, 3, **first)(x))
        return classifier(inputs, layers.Flatten(**first)(x))
