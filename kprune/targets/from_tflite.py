"""A `.tflite` file as a `Graph`."""

import numpy as np

from kprune.formats.damaged import DAMAGE, damaged, read_bytes
from kprune.formats.tflite.names import operator_layer
from kprune.formats.tflite.operators import PADDING_SAME, FirstSubgraph
from kprune.targets.graph import SAME, Graph, Op, Value, Weight, same_padding

_UNARY = {
    *("ABS", "CEIL", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG"),
    *("LOGISTIC", "NEG", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT"),
    *("SIGN", "SQRT", "SQUARE", "TANH", "COS", "SIN"),
}
_SIMPLE = {"ADD": "add", "MUL": "multiply", "RESIZE_BILINEAR": "resize"}
_SIMPLE["DEPTH_TO_SPACE"] = "depth_to_space"


def read(data):
    """Return the `Graph` of a file's first subgraph.

    Args:
        data: the file's bytes. Damaged ones raise one of many exceptions, in time and memory
            bounded by their number: see `read_tflite`.
    """
    return _Lowering(FirstSubgraph(data)).graph()


def read_tflite(path, judge):
    """Return what `judge` makes of the `Graph` of a `.tflite` file.

    Raises:
        ValueError: it is truncated or no TFLite file; the message names it.
        OSError: it cannot be read.
    """
    data = read_bytes(path)
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ValueError(
            f"'{path}' is not a TFLite file: its identifier is missing. Received: {len(data)} "
            f"bytes that begin with {data[:8]!r}"
        )
    try:
        return judge(read(data))
    except DAMAGE as error:
        raise damaged(path, "TFLite", error) from error


class _Lowering:
    """Makes the `Graph` of a `FirstSubgraph`."""

    def __init__(self, file):
        self.file = file
        self.values, self.sources = {}, {}

    def graph(self):
        file = self.file
        for index in range(file.tensors):
            self.values[index] = self._value(index)
        ops = []
        for operator in file.operators:
            ins, outs = operator.inputs, operator.outputs
            unpacks = operator.name in ("DENSIFY", "DEQUANTIZE")
            if unpacks and ins and self._holds_data(ins[0]):
                self.sources[outs[0]] = self.sources.get(ins[0], ins[0])
                self.values[outs[0]].constant = True
                continue
            ops.append(self._op(operator))
        return Graph(ops, self._free())

    def _free(self):
        """{name: shape} of the inputs with dynamic dimensions."""
        shapes = {i: self.file.signature(i) for i in sorted(self.file.inputs)}
        return {self.file.name(i): list(shape) for i, shape in shapes.items() if -1 in shape}

    def _value(self, index):
        return Value(
            self.file.shape(index),
            constant=self._holds_data(index),
            external=index in self.file.inputs,
            output=index in self.file.outputs,
            floating=self.file.floating(index),
        )

    def _holds_data(self, index):
        return index in self.sources or self.file.stored_bytes(index) > 0

    def _op(self, operator):
        name, ins, outs = operator.name, operator.inputs, operator.outputs
        values = [self.values[i] for i in ins]
        op = Op(
            operator_layer(self.file, operator, self._holds_data),
            "other",
            name,
            values[:1] or values,
            [self.values[i] for i in outs],
        )
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self._convolution(op, operator)
        elif name == "FULLY_CONNECTED" and self._holds_data(ins[1]):
            op.kind, op.weight = "dense", self._weight(ins[1], direct=True)
        elif name == "PAD":
            self._pad(op, ins)
        elif name in ("MEAN", "SUM"):
            self._mean(op, operator)
        elif name in _SIMPLE:
            op.kind = _SIMPLE[name]
            op.inputs = values[:2] if op.kind in ("add", "multiply") else values[:1]
        elif name in _UNARY:
            op.kind = "unary"
        else:
            op.inputs = values
        return op

    def _convolution(self, op, operator):
        depthwise = operator.name == "DEPTHWISE_CONV_2D"
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        options = self.file.options(operator, kind)
        if not self._holds_data(operator.inputs[1]):
            return
        kernel = self.values[operator.inputs[1]].shape
        op.kind = "depthwise" if depthwise else "conv"
        op.kernel = tuple(kernel[1:3])
        op.strides = options.strideH, options.strideW
        op.dilation = options.dilationHFactor, options.dilationWFactor
        op.padding = ((0, 0), (0, 0))
        if options.padding == PADDING_SAME:
            at_one = op.strides == (1, 1)
            op.padding = same_padding(op.kernel, op.dilation) if at_one else SAME
        channels = op.inputs[0].shape[-1]
        if depthwise:
            op.multiplier = kernel[-1] // channels
        else:
            op.groups = channels // kernel[-1]
        op.weight = self._weight(operator.inputs[1])

    def _weight(self, index, direct=False):
        source = self.sources.get(index, index)
        zeros, size = self.file.zeros(source)
        sparse = self.file.sparse(source)
        encoding = "dense" if not sparse else "blocks" if direct and source == index else "csr"
        kept = self.file.stored_bytes(source) // 4  # blocks are of float32
        stored = self.file.dtype(source)
        dtype = stored if source == index or stored == "float16" else "float32"
        return Weight(size, zeros, encoding, kept if encoding == "blocks" else None, dtype)

    def _pad(self, op, ins):
        if not self._holds_data(ins[1]):
            return
        pairs = np.reshape(self.file.integers(ins[1]), (-1, 2)).tolist()
        if len(pairs) == 4 and pairs[0] == pairs[3] == [0, 0]:
            op.kind, op.padding = "pad", (tuple(pairs[1]), tuple(pairs[2]))

    def _mean(self, op, operator):
        if self._holds_data(operator.inputs[1]):
            op.kind = "mean"
            op.axes = tuple(self.file.integers(operator.inputs[1]))
            op.keepdims = bool(self.file.options(operator, "ReducerOptions").keepDims)
