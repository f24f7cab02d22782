"""A `.tflite` file as a `Graph`."""

import numpy as np

from kprune.formats import stored
from kprune.formats.damaged import DAMAGE, damaged, read_bytes
from kprune.targets.graph import SAME, Graph, Op, Value, Weight, same_padding

_UNARY = {
    *("ABS", "CEIL", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG"),
    *("LOGISTIC", "NEG", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT"),
    *("SIGN", "SQRT", "SQUARE", "TANH", "COS", "SIN"),
}
_SIMPLE = {"ADD": "add", "MUL": "multiply", "RESIZE_BILINEAR": "resize"}
_SIMPLE["DEPTH_TO_SPACE"] = "depth_to_space"
_NAMELESS = ("StatefulPartitionedCall", "arith.constant", "?")
_PRODUCTS = ("convolution", "depthwise", "MatMul", "separable_conv2d")
_FLOATS = (0, 1)  # TensorType FLOAT32, FLOAT16


def read(data):
    """Return the `Graph` of a file's first subgraph.

    Args:
        data: the file's bytes. Damaged ones raise one of many exceptions, in time and memory
            bounded by their number: see `read_tflite`.
    """
    return _Reader(data).graph()


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


class _Reader:
    def __init__(self, data):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
        self.model = schema.Model.GetRootAs(data)
        self.subgraph = self.model.Subgraphs(0)
        self.values, self.sources = {}, {}
        # A sound file's vectors do not overlap, so that all together are hardly longer than it.
        self.left = 4 * len(data)

    def _vector(self, vector):
        """A vector of integers, as a list."""
        result = stored.integers(vector)
        self.left -= len(result)
        if self.left < 0:
            raise ValueError("its vectors overlap")
        return result

    def graph(self):
        subgraph = self.subgraph
        operators = [subgraph.Operators(i) for i in range(subgraph.OperatorsLength())]
        inputs = set(self._vector(subgraph.InputsAsNumpy()))
        outputs = set(self._vector(subgraph.OutputsAsNumpy()))
        for index in range(subgraph.TensorsLength()):
            self.values[index] = self._value(index, index in inputs, index in outputs)
        ops = []
        for operator in operators:
            name = self._operator_name(operator)
            ins = [i for i in self._vector(operator.InputsAsNumpy()) if i >= 0]
            outs = [i for i in self._vector(operator.OutputsAsNumpy()) if i >= 0]
            if name in ("DENSIFY", "DEQUANTIZE") and ins and self._holds_data(ins[0]):
                self.sources[outs[0]] = self.sources.get(ins[0], ins[0])
                self.values[outs[0]].constant = True
                continue
            ops.append(self._op(name, operator, ins, outs))
        return Graph(ops, self._free(sorted(inputs)))

    def _free(self, inputs):
        """{name: shape} of the inputs that leave dimensions free."""
        free = {}
        for tensor in (self.subgraph.Tensors(index) for index in inputs):
            shape = self._vector(tensor.ShapeSignatureAsNumpy())
            if -1 in shape:
                free[(tensor.Name() or b"?").decode(errors="replace")] = shape
        return free

    def _operator_name(self, operator):
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return self.names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")

    def _value(self, index, is_input, is_output):
        tensor = self.subgraph.Tensors(index)
        shape = self._vector(tensor.ShapeAsNumpy()) if tensor.ShapeLength() else []
        return Value(
            tuple(shape),
            constant=self._holds_data(index),
            external=is_input,
            output=is_output,
            floating=tensor.Type() in _FLOATS,
        )

    def _holds_data(self, index):
        tensor = self.subgraph.Tensors(index)
        return index in self.sources or self.model.Buffers(tensor.Buffer()).DataLength() > 0

    def _op(self, name, operator, ins, outs):
        values = [self.values[i] for i in ins]
        op = Op(
            self._name(ins, outs),
            "other",
            name,
            values[:1] or values,
            [self.values[i] for i in outs],
        )
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self._convolution(op, name, operator, ins)
        elif name == "FULLY_CONNECTED" and self._holds_data(ins[1]):
            op.kind, op.weight = "dense", self._weight(ins[1], direct=True)
        elif name == "PAD":
            self._pad(op, ins)
        elif name in ("MEAN", "SUM"):
            self._mean(op, operator, ins)
        elif name in _SIMPLE:
            op.kind = _SIMPLE[name]
            op.inputs = values[:2] if op.kind in ("add", "multiply") else values[:1]
        elif name in _UNARY:
            op.kind = "unary"
        else:
            op.inputs = values
        return op

    def _name(self, ins, outs):
        """The layer that a tensor's name, a path of TensorFlow scopes, speaks of.

        Outputs of the file are named after the call; there a bias or kernel may tell.
        """
        constants = [index for index in reversed(ins) if self._holds_data(index)]
        names = [self._tensor_name(index) for index in [*outs[:1], *constants]]
        return next((name for name in names if not name.startswith(_NAMELESS)), (names or ["?"])[0])

    def _tensor_name(self, index):
        text = (self.subgraph.Tensors(index).Name() or b"?").decode(errors="replace")
        # What was fused into the operator is named, too: an activation, a bias, the layer.
        parts = [part for part in text.split(";") if part] or ["?"]
        kernels = [part for part in parts if part.rpartition("/")[2].startswith(_PRODUCTS)]
        return layer_name((kernels or parts)[0])

    def _options(self, operator, cls):
        table, options = operator.BuiltinOptions(), cls()
        options.Init(table.Bytes, table.Pos)
        return options

    def _convolution(self, op, name, operator, ins):
        depthwise = name == "DEPTHWISE_CONV_2D"
        kinds = self.schema.DepthwiseConv2DOptions, self.schema.Conv2DOptions
        options = self._options(operator, kinds[0] if depthwise else kinds[1])
        if not self._holds_data(ins[1]):
            return
        kernel = self.values[ins[1]].shape
        op.kind = "depthwise" if depthwise else "conv"
        op.kernel = tuple(kernel[1:3])
        op.strides = options.StrideH(), options.StrideW()
        op.dilation = options.DilationHFactor(), options.DilationWFactor()
        op.padding = ((0, 0), (0, 0))
        if options.Padding() == self.schema.Padding.SAME:
            at_one = op.strides == (1, 1)
            op.padding = same_padding(op.kernel, op.dilation) if at_one else SAME
        channels = op.inputs[0].shape[-1]
        if depthwise:
            op.multiplier = kernel[-1] // channels
        else:
            op.groups = channels // kernel[-1]
        op.weight = self._weight(ins[1])

    def _weight(self, index, direct=False):
        source = self.sources.get(index, index)
        tensor = self.subgraph.Tensors(source)
        self.left -= self.model.Buffers(tensor.Buffer()).DataLength()
        self._vector(0)
        zeros, size = stored.tflite_zeros(self.model, tensor)
        sparse = tensor.Sparsity() is not None
        encoding = "dense" if not sparse else "blocks" if direct and source == index else "csr"
        kept = self.model.Buffers(tensor.Buffer()).DataLength() // 4  # blocks are of float32
        return Weight(size, zeros, encoding, kept if encoding == "blocks" else None)

    def _integers(self, index):
        """The entries of a constant of integers."""
        tensor = self.subgraph.Tensors(index)
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        wide = tensor.Type() == self.schema.TensorType.INT64
        return data.view("int64" if wide else "int32").tolist()

    def _pad(self, op, ins):
        if not self._holds_data(ins[1]):
            return
        pairs = np.reshape(self._integers(ins[1]), (-1, 2)).tolist()
        if len(pairs) == 4 and pairs[0] == pairs[3] == [0, 0]:
            op.kind, op.padding = "pad", (tuple(pairs[1]), tuple(pairs[2]))

    def _mean(self, op, operator, ins):
        if self._holds_data(ins[1]):
            op.kind = "mean"
            op.axes = tuple(self._integers(ins[1]))
            op.keepdims = bool(self._options(operator, self.schema.ReducerOptions).KeepDims())


def layer_name(text):
    """Shorten a tensor's name, `model_1/block/conv_1/Relu`, to its layer's, `block/conv_1`."""
    parts = [part for part in text.split("/") if part]
    if len(parts) > 2:
        parts = parts[1:-1]
    elif len(parts) > 1:
        parts = parts[:-1] if parts[0] != "StatefulPartitionedCall" else parts[1:]
    return "/".join(parts) or text
