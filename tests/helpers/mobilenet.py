"""MobileNetV1 as XNNPACK's sparse kernels want it, with weights that are zero at random."""

import keras
import numpy as np

_STRIDES_AND_FILTERS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)]
_STRIDES_AND_FILTERS += [(1, 512)] * 5 + [(2, 1024), (1, 1024)]


def mobilenet(alpha=0.25, size=96, classes=10, head="dense", sparsity=0.0):
    """MobileNetV1 (Howard et al., 2017) with symmetric padding, some of its 1x1 weights zero.

    Args:
        alpha: float, the width; 1.0 is the paper's.
        size: int, side of the square RGB input.
        classes: int, outputs.
        head: `"dense"`, or `"conv"` for a 1x1 convolution on the pooled 1x1 map: with sparse
            weights, the graph that XNNPACK accepts and then cannot run.
        sparsity: float, share of each 1x1 convolution's weights that is zero, the smallest.
    """
    layers = keras.layers

    def conv(x, layer, stride):
        if stride == 2:
            x = layers.ZeroPadding2D(1)(x)
        x = layer(x)
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.0)(x))

    def padding(stride):
        return "same" if stride == 1 else "valid"

    inputs = keras.Input((size, size, 3))
    stem = layers.Conv2D(int(32 * alpha), 3, strides=2, padding="valid", use_bias=False)
    x = conv(inputs, stem, 2)
    for stride, filters in _STRIDES_AND_FILTERS:
        depthwise = layers.DepthwiseConv2D(
            3, strides=stride, padding=padding(stride), use_bias=False
        )
        x = conv(x, depthwise, stride)
        x = conv(x, layers.Conv2D(int(filters * alpha), 1, use_bias=False), 1)
    x = layers.GlobalAveragePooling2D(keepdims=head == "conv")(x)
    if head == "conv":
        x = layers.Conv2D(classes, 1)(x)
    x = layers.Flatten()(x) if head == "conv" else layers.Dense(classes)(x)
    model = keras.Model(inputs, x)
    zero_pointwise(model, sparsity)
    # Without statistics of its own the signal fades to nothing, and any two files agree.
    model(keras.random.normal((2, size, size, 3), seed=0), training=True)
    return model


def zero_pointwise(model, sparsity):
    """Set the smallest weights of each 1x1 convolution to zero."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1):
            value = np.array(keras.ops.convert_to_numpy(layer.kernel))
            smallest = np.argsort(np.abs(value), axis=None)[: round(sparsity * value.size)]
            value.flat[smallest] = 0
            layer.kernel.assign(value)
