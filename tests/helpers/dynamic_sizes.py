"""Models that leave sizes open, and do not accept every one."""

import keras
from keras import layers, ops


def splice():
    """A splice-site network in small: context of 5000 positions on each side is cut off."""
    inputs = keras.Input((None, 4))
    x = layers.Conv1D(32, 1, activation="relu")(inputs)
    y = layers.Conv1D(32, 11, dilation_rate=4, padding="same", activation="relu")(x)
    x = layers.Cropping1D(5000)(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Conv1D(3, 1, activation="softmax")(x))


def sliced():
    """The same cut with an operation, which fails nowhere and leaves nothing."""
    inputs = keras.Input((None, 4))
    x = layers.Conv1D(8, 1, activation="relu")(inputs)[:, 150:-150]
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


class Positions(layers.Layer):
    """Adds a table of positions; says a shape for any length, and fails beyond the table."""

    def build(self, input_shape):
        self.table = self.add_weight(shape=(40, input_shape[-1]), name="position_table")

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        length = x.shape[1] or ops.shape(x)[1]
        if x.shape[1] is not None and x.shape[1] > 40:
            raise ValueError(f"At most 40 positions. Received: {x.shape[1]}")
        return x + self.table[:length]


def at_most_40():
    inputs = keras.Input((None,), dtype="int32")
    x = Positions()(layers.Embedding(20, 8)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def u_net():
    """Down and up again by 8: sizes must be multiples of it."""
    inputs = keras.Input((None, None, 3))
    x, skips = inputs, []
    for filters in (8, 8, 8):
        skips.append(x)
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.UpSampling2D(2)(x), skip])
        x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1)(x))


# What the dynamic dimensions are found to be: the usual size, or one that works.
SMALLEST = {
    "splice": (splice, (10_001, 4)),
    "sliced": (sliced, (301, 4)),
    "at most 40": (at_most_40, (32,)),
    "u-net": (u_net, (224, 224, 3)),
}
