"""Networks for images, as published, small."""

import keras
from keras import layers, ops

from tests.helpers.topologies.parts import classifier, conv_norm_relu, hard_swish
from tests.helpers.topologies.registry import topology


@topology(frozen="head")
def mlp():
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(12, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(9, activation="tanh"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )


@topology(frozen="head")
def vgg():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.Conv2D(8, 3, padding="same", activation="sigmoid"),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(12, activation="relu"),
            layers.Dense(4, name="head"),
        ]
    )


@topology(frozen="head")
def resnet():
    x = inputs = keras.Input((8, 8, 3))
    x = conv_norm_relu(x, 6)
    for filters, strides in ((6, 1), (10, 2), (10, 1)):
        shortcut = x
        y = conv_norm_relu(x, filters, strides=strides)
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        if strides > 1:
            shortcut = layers.Conv2D(filters, 1, strides=strides)(x)
            shortcut = layers.BatchNormalization()(shortcut)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def preactivation_resnet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = conv_norm_relu(y, 6, 1)
        x = x + layers.Conv2D(8, 3, padding="same")(layers.ZeroPadding2D(0)(y))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return classifier(inputs, layers.GlobalMaxPooling2D()(x))


@topology(frozen="head")
def densenet():
    x = inputs = keras.Input((8, 8, 3))
    x = conv_norm_relu(x, 6)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(4, 3, padding="same")(conv_norm_relu(y, 7, 1))
        x = layers.Concatenate()([x, y])
    x = layers.AveragePooling2D(2)(conv_norm_relu(x, 9, 1))
    return classifier(inputs, layers.Flatten()(x))


@topology(frozen="head")
def inception():
    x = inputs = keras.Input((8, 8, 3))
    x = conv_norm_relu(x, 6)
    for _ in range(2):
        pooled = layers.AveragePooling2D(3, strides=1, padding="same")(x)
        wide = conv_norm_relu(conv_norm_relu(x, 5, 1), 6, (1, 3))
        branches = [conv_norm_relu(x, 4, 1), wide, conv_norm_relu(pooled, 3, 1), pooled]
        x = ops.concatenate(branches, axis=-1)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def mobilenet_v1():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(layers.ZeroPadding2D(1)(x))
    for filters in (8, 10):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(filters, 1)(x)))
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(4, 1, name="head")(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Softmax()(layers.Reshape((4,))(x)))


def _inverted(x, expanded, filters, activation, excite=False, kernel=3):
    y = layers.Conv2D(expanded, 1, use_bias=False)(x)
    y = activation(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(kernel, padding="same", use_bias=False)(y)
    y = activation(layers.BatchNormalization()(y))
    if excite:
        s = layers.GlobalAveragePooling2D(keepdims=excite == "keepdims")(y)
        if excite != "keepdims":
            s = layers.Reshape((1, 1, expanded))(s)
        s = layers.Conv2D(4, 1, activation="relu")(s)
        s = layers.Conv2D(expanded, 1)(s)
        if activation is hard_swish:
            s = ops.relu6(s + 3.0) * (1.0 / 6.0)
        else:
            s = layers.Activation("sigmoid")(s)
        y = layers.Multiply()([y, s])
    y = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(y))
    return layers.Add()([x, layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(y)])


@topology(frozen="head")
def mobilenet_v2():
    x = inputs = keras.Input((8, 8, 3))
    x = conv_norm_relu(x, 6, strides=2)
    x = _inverted(x, 12, 6, ops.relu6)
    x = _inverted(x, 10, 6, ops.relu6)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def mobilenet_v3():
    x = inputs = keras.Input((8, 8, 3))
    x = hard_swish(layers.Conv2D(6, 3, padding="same")(x))
    x = _inverted(x, 12, 6, hard_swish, excite="keepdims")
    return classifier(inputs, layers.Flatten()(layers.GlobalAveragePooling2D()(x)))


@topology(frozen="head")
def efficientnet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Normalization()(layers.Rescaling(1 / 2)(x))
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = _inverted(x, 12, 6, keras.activations.silu, excite="reshape", kernel=5)
    x = layers.Activation("swish")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@topology(frozen="head")
def unet():
    x = inputs = keras.Input((8, 8, 3))
    skips = []
    for filters in (5, 7):
        x = conv_norm_relu(x, filters)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = conv_norm_relu(x, 9)
    for filters, skip in zip((6, 4), reversed(skips)):
        if filters == 6:
            x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        else:
            x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = conv_norm_relu(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))


@topology(frozen="head")
def espcn():
    x = inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(8, 5, padding="same", activation="tanh")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(4, 3, padding="same", name="head")(x)
    return keras.Model(inputs, ops.depth_to_space(x, 2))


@topology(frozen="head")
def siamese():
    t = inputs = keras.Input((8, 8, 1))
    t = layers.GlobalMaxPooling2D()(conv_norm_relu(conv_norm_relu(t, 5), 6))
    trunk = keras.Model(inputs, layers.Dense(7)(t), name="trunk")
    a, b = keras.Input((8, 8, 1), name="a"), keras.Input((8, 8, 1), name="b")
    x = ops.abs(trunk(a) - trunk(b))
    return classifier([a, b], layers.Dense(6, activation="relu")(x))


@topology(frozen="head")
def siamese_concatenated():
    """A shared trunk whose two outputs meet nowhere position by position."""
    trunk = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Reshape((16, 8)),
            layers.GlobalAveragePooling1D(),
        ],
        name="trunk",
    )
    a, b = keras.Input((6, 6, 1), name="a"), keras.Input((6, 6, 1), name="b")
    return classifier([a, b], layers.Concatenate()([trunk(a), trunk(b)]))
