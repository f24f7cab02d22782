"""Small models of every kind kprune meets, for tests in any room.

`ZOO[name]()` builds a fresh, built, uncompiled Keras model; `keras.utils.set_random_seed` first
makes its weights repeatable.
"""

import keras
from keras import layers

ZOO = {}


def _entry(builder):
    ZOO[builder.__name__] = builder
    return builder


@_entry
def mlp():
    return keras.Sequential(
        [keras.Input((20,)), layers.Dense(32, activation="relu"), layers.Dense(5)], name="mlp"
    )


@_entry
def cnn():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ],
        name="cnn",
    )


@_entry
def separable():
    x = inputs = keras.Input((16, 16, 4))
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2)(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x), name="separable")


@_entry
def grouped_conv():
    x = inputs = keras.Input((12, 12, 8))
    x = layers.Conv2D(16, 3, groups=4, activation="relu")(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="grouped_conv")


@_entry
def exact_gelu():
    x = inputs = keras.Input((12,))
    x = layers.Dense(16)(x)
    x = layers.Activation(lambda t: keras.activations.gelu(t, approximate=False))(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="exact_gelu")


@_entry
def conv1d():
    x = inputs = keras.Input((24, 6))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(x)
    x = layers.SeparableConv1D(8, 3)(x)
    x = layers.DepthwiseConv1D(3)(x)
    x = layers.Conv1DTranspose(4, 3, strides=2)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x), name="conv1d")


@_entry
def conv3d():
    x = inputs = keras.Input((6, 8, 8, 2))
    x = layers.Conv3D(4, 3, activation="relu")(x)
    x = layers.Conv3DTranspose(3, 2, strides=2)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling3D()(x), name="conv3d")


@_entry
def lstm():
    x = inputs = keras.Input((10, 6))
    x = layers.LSTM(8, return_sequences=True)(x)
    x = layers.LSTM(5)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x), name="lstm")


@_entry
def gru():
    x = inputs = keras.Input((10, 6))
    x = layers.GRU(8, return_sequences=True)(x)
    x = layers.SimpleRNN(5)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x), name="gru")


@_entry
def bidirectional():
    x = inputs = keras.Input((10, 6))
    x = layers.TimeDistributed(layers.Dense(7, activation="relu"))(x)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(5))(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="bidirectional")


@_entry
def embedding():
    x = inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 8)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x), name="embedding")


@_entry
def masked_text():
    """Float ids into a masking Embedding, as `Sequential` users write it."""
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Embedding(50, 8, mask_zero=True),
            layers.LSTM(6),
            layers.Dense(2, activation="softmax"),
        ],
        name="masked_text",
    )


@_entry
def attention():
    x = inputs = keras.Input((9, 12))
    y = layers.MultiHeadAttention(3, 4)(x, x, use_causal_mask=True)
    x = layers.LayerNormalization()(x + y)
    y = layers.GroupQueryAttention(4, 4, 2)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.EinsumDense("abc,cd->abd", output_shape=(None, 12), bias_axes="d")(x)
    x = layers.GlobalAveragePooling1D()(keras.activations.gelu(x + y, approximate=False))
    return keras.Model(inputs, layers.Dense(4)(x), name="attention")


@_entry
def multi_io():
    """Two inputs, a shared layer, three outputs whose names do not sort as they are declared."""
    a, b = keras.Input((8,), name="zeta"), keras.Input((8,), name="alpha")
    shared = layers.Dense(6, activation="relu", name="shared")
    u, v = shared(a), shared(b)
    w = layers.Concatenate()([u, v])
    outputs = [
        layers.Dense(2, name="third")(w),
        layers.Dense(3, name="first", activation="softmax")(u),
        u - v,
    ]
    return keras.Model([a, b], outputs, name="multi_io")


@_entry
def dict_io():
    ids = keras.Input((7,), dtype="int32", name="text")
    image = keras.Input((8, 8, 1), name="image")
    meta = keras.Input((3,), name="meta")
    x = layers.Flatten()(layers.Embedding(30, 4)(ids))
    y = layers.Flatten()(layers.Conv2D(3, 3)(image))
    z = layers.Concatenate()([x, y, meta])
    outputs = {"score": layers.Dense(1)(z), "label": layers.Dense(4, activation="softmax")(z)}
    return keras.Model({"text": ids, "rest": (image, meta)}, outputs, name="dict_io")


@_entry
def nested():
    inner = keras.Sequential(
        [keras.Input((10, 10, 3)), layers.Conv2D(6, 3), layers.ReLU(), layers.Flatten()],
        name="inner",
    )
    a, b = keras.Input((10, 10, 3)), keras.Input((10, 10, 3))
    x = layers.Subtract()([inner(a), inner(b)])
    return keras.Model([a, b], layers.Dense(3)(x), name="nested")


@keras.saving.register_keras_serializable(package="zoo")
class Scale(layers.Layer):
    """A custom layer with a weight of its own."""

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gain


@keras.saving.register_keras_serializable(package="zoo")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(12, activation="relu")
        self.scale = Scale()
        self.head = layers.Dense(3)

    def call(self, x, training=False):
        return {"out": self.head(self.scale(self.hidden(x)))}


@_entry
def subclassed():
    model = Subclassed(name="subclassed")
    model(keras.ops.zeros((1, 9)))
    return model
