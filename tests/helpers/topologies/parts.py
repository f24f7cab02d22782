"""Parts that many topologies share."""

import keras
from keras import layers, ops


def conv_norm_relu(x, filters, size=3, **options):
    """Convolution, batch normalization, ReLU."""
    x = layers.Conv2D(filters, size, padding="same", use_bias=False, **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def classifier(inputs, x, units=3):
    """Return a model that ends in the layer `head`."""
    return keras.Model(inputs, layers.Dense(units, name="head")(x))


def hard_swish(x):
    """As `keras.applications.MobileNetV3` builds it."""
    return x * (ops.relu6(x + 3.0) * (1.0 / 6.0))
