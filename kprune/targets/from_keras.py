"""A functional or Sequential Keras model as a `Graph`: what TFLite's converter makes of it.

The converter folds batch normalization into the convolution or dense layer before it, drops what
only acts in training, and splits or joins a few layers. Where it is not sure what becomes of a
layer, it is an operator of kind "other", which no sparse kernel works with.
"""

import keras
import numpy as np

from kprune.formats.tflite.sparsity import BLOCK, BLOCKS_FROM, SPARSE_FROM
from kprune.graphs.sizes import sized_call, with_input_shape
from kprune.graphs.walk import graph_of, walk
from kprune.graphs.weights import weights_of
from kprune.targets.graph import SAME, Graph, Op, Value, Weight, same_padding

layers = keras.layers
_NOTHING = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.Identity),
    layers.ActivityRegularization,
)
# Activations that become one operator on the elements; `silu` is a product, in two.
_UNARY = {
    *("relu", "relu6", "tanh", "sigmoid", "elu", "leaky_relu", "gelu", "exponential"),
    *("hard_silu", "hard_swish", "silu", "swish"),
}
_FOLDED = ("conv", "depthwise", "dense")


def read(model, sparsity=None, input_shape=None):
    """Return the `Graph` of a model.

    Args:
        model: a built functional or Sequential `keras.Model`; models in it are read, too.
        sparsity: float, to read it as if its 1x1 convolutions and dense layers had this share of
            zeros; by default as they are.
        input_shape: as in `graphs.sizes.with_input_shape`, the sizes to read it at.

    Raises:
        ValueError: a subclassed model, whose graph is not known.
    """
    ops = _Reader(input_shape).read(model)
    for op in ops if sparsity is not None else ():
        if op.pointwise and op.weight is not None:
            op.weight = Weight(op.weight.size, round(sparsity * op.weight.size), "csr")
    return Graph(ops)


def kernel_weight(kernel, dense):
    """Describe a kernel and how the converter's sparse encoding would store it.

    Args:
        kernel: array; [in, out] for a dense layer.
        dense: whether it is a dense layer's.
    """
    zeros = kernel.size - int(np.count_nonzero(kernel))
    weight = Weight(kernel.size, zeros)
    if weight.sparsity >= SPARSE_FROM:
        weight.encoding = "csr"
        in_blocks = zeros_in_blocks(kernel) if dense else 0
        if in_blocks > BLOCKS_FROM * zeros:
            weight.encoding, weight.kept = "blocks", kernel.size - in_blocks
    return weight


def zeros_in_blocks(kernel):
    """Count the zeros of a dense kernel [in, out] that fill whole blocks of 4 inputs."""
    rows = len(kernel) // BLOCK * BLOCK
    blocks = (kernel[:rows] == 0).reshape(-1, BLOCK, kernel.shape[1])
    return BLOCK * int(blocks.all(axis=1).sum())


class _Reader:
    def __init__(self, input_shape):
        self.ops, self.input_shape = [], input_shape

    def read(self, model):
        if graph_of(model) is None:
            raise ValueError(
                f"The model '{model.name}' is subclassed, so its graph of layers is not known. "
                "Export it, and check the file."
            )
        sized = with_input_shape(model, graph_of(model).inputs, self.input_shape)
        inputs = [Value(tuple(tensor.shape), external=True) for tensor in sized]
        for value in walk(model, inputs, self._step):
            value.output = True
        self._fold()
        return self.ops

    def _step(self, node, inputs):
        """Append what a call becomes; a model that is called more than once is there as often."""
        dynamic = any(None in output.shape[1:] for output in node.outputs)
        if self.input_shape is not None and dynamic:
            node = sized_call(node, [value.shape for value in inputs])
        return _lowering(node.operation)(self, node.operation, inputs, node)

    def add(self, operation, kind, inputs, shape, **attributes):
        """Append an operator and return its output."""
        output = Value(tuple(shape))
        name = type(operation).__name__
        self.ops.append(Op(operation.name, kind, name, list(inputs), [output], **attributes))
        return output

    def activation(self, layer, value):
        """Append what `layer.activation` becomes."""
        name = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if name == "linear":
            return value
        kind = "unary" if name in _UNARY else "other"
        return self.add(layer, kind, [value], value.shape)

    def _fold(self):
        """Fold batch normalizations into the operators right before them, as the converter does.

        Others become a product and a sum with constants, which are not on the sparse path.
        """
        for op in [op for op in self.ops if op.type == "BatchNormalization"]:
            graph = Graph(self.ops)
            before = graph.producer.get(id(op.inputs[0]))
            if before is not None and before.kind in _FOLDED and graph.uses(op.inputs[0]) == 1:
                before.outputs = op.outputs
                self.ops.remove(op)


def _other(reader, operation, inputs, node):
    """One operator for each output; the first has all weights of a layer, in layers of its, too."""
    weights = [_all_kernels(operation), *[None] * len(node.outputs)]
    return [
        reader.add(operation, "other", inputs, getattr(tensor, "shape", ()), weight=weight)
        for tensor, weight in zip(node.outputs, weights)
    ]


def _all_kernels(operation):
    """Describe the kernels of a layer as one `Weight`; None where there are none."""
    if not isinstance(operation, keras.Layer):
        return None
    found = [weight for weight in weights_of(operation) if weight.is_kernel]
    if not found:
        return None
    kernels = [kernel_weight(_numpy(weight.variable), dense=False) for weight in found]
    result = Weight(sum(each.size for each in kernels), sum(each.zeros for each in kernels))
    if not isinstance(operation, _STORED_DENSE):
        stored = [each for each in kernels if each.encoding != "dense"]
        result.encoding = "csr" if stored else "dense"
    return result


def _nothing(reader, operation, inputs, node):
    return inputs[:1]


def _shape(node):
    return node.outputs[0].shape


def _channels_last(layer):
    return getattr(layer, "data_format", "channels_last") != "channels_first"


def _padding(layer, kernel, strides, dilation, image):
    if layer.padding != "same":
        return ((0, 0), (0, 0))
    # As much on both sides: the export writes it as explicit padding.
    odd = all(size is not None and size % 2 == 1 for size in (*image, *kernel))
    if strides == (1, 1) or (strides == (2, 2) and dilation == (1, 1) and odd):
        return same_padding(kernel, dilation)
    return SAME


def _window(layer, inputs):
    kernel, strides = tuple(layer.kernel_size), tuple(layer.strides)
    dilation = tuple(layer.dilation_rate)
    return {
        "kernel": kernel,
        "strides": strides,
        "dilation": dilation,
        "padding": _padding(layer, kernel, strides, dilation, inputs[0].shape[1:3]),
    }


def _numpy(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _conv(reader, layer, inputs, node):
    if not _channels_last(layer):
        return _other(reader, layer, inputs, node)
    weight = kernel_weight(_numpy(layer.kernel), dense=False)
    window = {"groups": layer.groups, **_window(layer, inputs)}
    value = reader.add(layer, "conv", inputs, _shape(node), weight=weight, **window)
    return [reader.activation(layer, value)]


def _depthwise(reader, layer, inputs, node):
    if not _channels_last(layer):
        return _other(reader, layer, inputs, node)
    kernel = _numpy(layer.kernel)
    value = reader.add(
        layer,
        "depthwise",
        inputs,
        _shape(node),
        weight=Weight(kernel.size, kernel.size - int(np.count_nonzero(kernel))),
        multiplier=layer.depth_multiplier,
        **_window(layer, inputs),
    )
    return [reader.activation(layer, value)]


def _separable(reader, layer, inputs, node):
    if not _channels_last(layer):
        return _other(reader, layer, inputs, node)
    kernel, pointwise = _numpy(layer.depthwise_kernel), _numpy(layer.pointwise_kernel)
    value = reader.add(
        layer,
        "depthwise",
        inputs,
        (*_shape(node)[:-1], pointwise.shape[-2]),
        weight=Weight(kernel.size, kernel.size - int(np.count_nonzero(kernel))),
        multiplier=layer.depth_multiplier,
        **_window(layer, inputs),
    )
    weight = kernel_weight(pointwise, dense=False)
    value = reader.add(layer, "conv", [value], _shape(node), weight=weight)
    return [reader.activation(layer, value)]


def _dense(reader, layer, inputs, node):
    weight = kernel_weight(_numpy(layer.kernel), dense=True)
    value = reader.add(layer, "dense", inputs, _shape(node), weight=weight)
    return [reader.activation(layer, value)]


def _pad(reader, layer, inputs, node):
    kind = "pad" if _channels_last(layer) else "other"
    padding = tuple(map(tuple, layer.padding))
    return [reader.add(layer, kind, inputs, _shape(node), padding=padding)]


def _activation(reader, layer, inputs, node):
    return [reader.activation(layer, inputs[0])]


def _unary(reader, layer, inputs, node):
    return [reader.add(layer, "unary", inputs[:1], _shape(node))]


def _relu(reader, layer, inputs, node):
    known = not layer.threshold and layer.max_value in (None, 1, 6) and not layer.negative_slope
    return [reader.add(layer, "unary" if known else "other", inputs, _shape(node))]


def _prelu(reader, layer, inputs, node):
    # relu(x) - alpha * relu(-x), with alpha a constant that is no image
    negative = reader.add(layer, "unary", inputs, _shape(node))
    scaled = reader.add(layer, "other", [negative], _shape(node))
    return [reader.add(layer, "add", [inputs[0], scaled], _shape(node))]


def _sum(kind):
    def lower(reader, operation, inputs, node):
        constants = [] if len(inputs) > 1 else [_constant(node)]
        terms = [*inputs, *constants]
        first = terms[0]
        for other in terms[1:]:
            first = reader.add(operation, kind, [first, other], _shape(node))
        return [first]

    return lower


def _constant(node):
    """The operand of an arithmetic operation that is no tensor of the model."""
    arguments = [*node.arguments.args, *node.arguments.kwargs.values()]
    others = [a for a in arguments if a is not None and not isinstance(a, keras.KerasTensor)]
    return Value(np.shape(others[0]) if others else (), constant=True)


def _pooling(reader, layer, inputs, node):
    if not _channels_last(layer):
        return _other(reader, layer, inputs, node)
    keepdims = {"axes": (1, 2), "keepdims": layer.keepdims}
    return [reader.add(layer, "mean", inputs, _shape(node), **keepdims)]


def _mean(reader, operation, inputs, node):
    axes = getattr(operation, "axis", None)
    axes = (axes,) if isinstance(axes, int) else axes
    axes = tuple(range(len(inputs[0].shape))) if axes is None else tuple(axes)
    keepdims = {"axes": axes, "keepdims": operation.keepdims}
    return [reader.add(operation, "mean", inputs, _shape(node), **keepdims)]


def _upsampling(reader, layer, inputs, node):
    kind = "resize" if layer.interpolation == "bilinear" and _channels_last(layer) else "other"
    return [reader.add(layer, kind, inputs, _shape(node))]


# The converter encodes what becomes a matrix or a 2D convolution, and a lookup is neither.
_STORED_DENSE = (layers.Conv3D, layers.Conv3DTranspose, layers.Embedding)
_BY_LAYER = {
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv2D: _separable,
    layers.Conv2D: _conv,
    layers.Dense: _dense,
    layers.ZeroPadding2D: _pad,
    layers.GlobalAveragePooling2D: _pooling,
    layers.UpSampling2D: _upsampling,
    layers.ReLU: _relu,
    layers.Activation: _activation,
    layers.LeakyReLU: _unary,
    layers.ELU: _unary,
    layers.PReLU: _prelu,
    layers.Add: _sum("add"),
    layers.Multiply: _sum("multiply"),
}
_BY_NAME = {  # operations of keras.ops, which are not layers
    "Add": _sum("add"),
    "Multiply": _sum("multiply"),
    "Mean": _mean,
    "Sum": _mean,
    **dict.fromkeys(
        ("Relu", "Relu6", "Tanh", "Sigmoid", "HardSilu", "Silu", "Gelu", "Negative"), _unary
    ),
}


def _lowering(operation):
    if isinstance(operation, _NOTHING):
        return _nothing
    if type(operation) in _BY_LAYER:
        return _BY_LAYER[type(operation)]
    if not isinstance(operation, keras.Layer):
        return _BY_NAME.get(type(operation).__name__, _other)
    return _other
