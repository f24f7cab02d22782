"""Small convolutional models around XNNPACK's sparse path, and what LiteRT.js makes of each.

`GRAPHS[name]` is (builder, fate): the fate is what happens to a file with 90% zeros, stored
sparse and without rewrites, as seen in LiteRT.js 2.5.3: `"fast"`, `"dense"` (computed densely),
`"wrong"` (outputs differ) or `"fails"` (it does not run).
"""

import functools

import keras
import numpy as np
from keras import layers, ops

from kprune.export import transport
from kprune.export.convert import Request
from kprune.graphs.signature import describe

GRAPHS = {}
CHANNELS = 24  # other than the height: see `product_with_mean_as_high_as_deep`


def entry(fate):
    def register(builder):
        GRAPHS[builder.__name__] = builder, fate
        return builder

    return register


def model(name, sparsity=0.9):
    """Build a model by its name, with that share of zeros in all 1x1 and dense kernels."""
    inputs = keras.Input((32, 32, 3))
    built = keras.Model(inputs, GRAPHS[name][0](inputs), name=name)
    rng = np.random.default_rng(0)
    for layer in built._flatten_layers():
        pointwise = isinstance(layer, layers.Dense) or getattr(layer, "kernel_size", 0) == (1, 1)
        if pointwise and not isinstance(layer, layers.DepthwiseConv2D):
            zero(layer.kernel, sparsity)
        for variable in layer.trainable_variables:
            if variable.name in ("bias", "beta"):
                variable.assign(0.1 * rng.normal(size=variable.shape))
    return built


def zero(variable, sparsity):
    value = np.array(keras.ops.convert_to_numpy(variable))
    smallest = np.argsort(np.abs(value), axis=None)[: round(sparsity * value.size)]
    value.flat[smallest] = 0
    variable.assign(value)


def stem(x, padding=1):
    x = layers.ZeroPadding2D(padding)(x)
    return layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(x)


def pointwise(x, filters=CHANNELS, activation="relu", **arguments):
    return layers.Conv2D(filters, 1, activation=activation, **arguments)(x)


def depthwise(x, size=3, strides=1, padding=None, **arguments):
    if padding is None:
        return layers.DepthwiseConv2D(size, strides=strides, padding="same", **arguments)(x)
    x = layers.ZeroPadding2D(padding)(x)
    return layers.DepthwiseConv2D(size, strides=strides, **arguments)(x)


def body(x):
    return pointwise(pointwise(depthwise(stem(x))))


def mean(x, keepdims=False):
    return layers.GlobalAveragePooling2D(keepdims=keepdims)(x)


def end(x):
    return layers.Dense(10)(mean(x))


@entry("fast")
def plain(x):
    return end(body(x))


@entry("fast")
def mean_is_output(x):
    return mean(body(x), keepdims=True)


@entry("fails")
def convolution_after_mean(x):
    return layers.Conv2D(10, 1, name="conv_head")(mean(body(x), keepdims=True))


@entry("fails")
def activation_after_mean(x):
    return ops.tanh(mean(body(x), keepdims=True))


@entry("fails")
def product_with_mean(x):
    x = body(x)
    return end(x * mean(x, keepdims=True))


@entry("fast")
def product_with_mean_as_high_as_deep(x):
    x = pointwise(body(x), 16)
    return end(x * mean(x, keepdims=True))


@entry("fast")
def two_convolutions_after_mean(x):
    return pointwise(pointwise(mean(body(x), keepdims=True), 12), 10, None)


@entry("fast")
def flattened_mean(x):
    return layers.Dense(10)(layers.Flatten()(mean(body(x), keepdims=True)))


@entry("fast")
def squeeze_and_excite(x):
    x = body(x)
    gate = pointwise(pointwise(mean(x, keepdims=True), 8), CHANNELS, "sigmoid")
    return end(pointwise(x * gate))


@entry("dense")
def squeeze_and_excite_on_vectors(x):
    x = body(x)
    gate = layers.Dense(CHANNELS, activation="sigmoid")(mean(x))
    return end(pointwise(x * layers.Reshape((1, 1, CHANNELS))(gate)))


@entry("dense")
def no_mean(x):
    return body(x)


@entry("dense")
def flattened(x):
    return layers.Dense(4)(layers.Flatten()(body(x)))


@entry("dense")
def asymmetric_stem(x):
    return end(pointwise(depthwise(stem(x, ((0, 1), (0, 1))))))


@entry("dense")
def stride_1_stem(x):
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    return end(pointwise(depthwise(x)))


@entry("dense")
def one_channel(x):
    return end(body(x[..., :1]))


@entry("wrong")
def asymmetric_depthwise(x):
    return end(pointwise(depthwise(body(x), strides=2, padding=((0, 1), (0, 1)), name="dw3")))


@entry("wrong")
def same_depthwise(x):
    return end(pointwise(depthwise(body(x), strides=2, name="dw3")))


@entry("fast")
def symmetric_depthwise(x):
    return end(pointwise(depthwise(body(x), strides=2, padding=1)))


@entry("fast")
def larger_depthwise(x):
    return end(pointwise(depthwise(body(x), 5, strides=2, padding=2)))


@entry("wrong")
def depthwise_7x7(x):
    return end(pointwise(depthwise(body(x), 7)))


@entry("wrong")
def max_pooling(x):
    return end(pointwise(layers.MaxPooling2D()(body(x))))


@entry("wrong")
def convolution_3x3(x):
    return end(pointwise(layers.Conv2D(CHANNELS, 3, padding="same")(body(x))))


@entry("wrong")
def strided_pointwise(x):
    return end(pointwise(pointwise(body(x), strides=2)))


@entry("wrong")
def grouped_pointwise(x):
    return end(pointwise(pointwise(body(x), groups=4)))


@entry("wrong")
def padded_pointwise(x):
    return end(pointwise(layers.ZeroPadding2D(1)(body(x))))


@entry("wrong")
def constant_factor(x):
    factor = np.linspace(0.5, 1.5, CHANNELS, dtype="float32").reshape(1, 1, 1, -1)
    return end(pointwise(body(x) * factor))


@entry("wrong")
def mean_over_height(x):
    return ops.mean(body(x), axis=1)


@entry("fast")
def residual(x):
    x = body(x)
    return end(pointwise(x + pointwise(x)))


@entry("dense")
def concatenated(x):
    x = body(x)
    return end(pointwise(layers.Concatenate()([x, pointwise(x)])))


@entry("dense")
def subtracted(x):
    x = body(x)
    return end(pointwise(x - pointwise(x)))


@entry("dense")
def second_output(x):
    x = body(x)
    return [end(x), x]


@entry("fast")
def two_heads(x):
    x = mean(body(x))
    return [layers.Dense(10)(x), layers.Dense(3)(x)]


@entry("fast")
def resized(x):
    x = depthwise(body(x), strides=2, padding=1)
    return end(pointwise(layers.UpSampling2D(interpolation="bilinear")(x)))


@entry("fast")
def activations(x):
    x = pointwise(pointwise(depthwise(stem(x)), activation="hard_silu"), activation="silu")
    return end(layers.LeakyReLU()(x))


@entry("dense")
def parametric(x):
    return end(pointwise(layers.PReLU(shared_axes=[1, 2])(body(x))))


@entry("fast")
def batch_normalization(x):
    x = pointwise(depthwise(stem(x)), activation=None, use_bias=False)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    return end(pointwise(x))


@entry("wrong")
def late_batch_normalization(x):
    return end(pointwise(layers.BatchNormalization()(pointwise(body(x)))))


@entry("fast")
def dense_on_images(x):
    return end(layers.Dense(CHANNELS, activation="relu")(body(x)))


@entry("fast")
def nested(x):
    inputs = keras.Input((16, 16, CHANNELS))
    inner = keras.Model(inputs, pointwise(depthwise(inputs)), name="inner")
    return end(layers.Dropout(0.5)(inner(body(x))))


@functools.cache
def as_it_is(name, sparse=True):
    """Convert a model without any rewrite."""
    built = model(name)
    names = [f"output_{i}" for i in range(len(built.outputs))]
    signature = describe(built).with_batch(1)
    return transport.convert(built, Request("tflite", signature, names, sparse=sparse))
