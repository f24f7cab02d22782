"""FLOPs of TFLite and ONNX graphs, by the definition of `flops`, where their shapes are known."""

import math
import re

from kprune.graphs.products import einsum_flops

# Operators whose cost stands in another graph, depends on data, or is not known here.
_OPAQUE_TFLITE = re.compile(
    r"WHILE|IF|CALL|CALL_ONCE|CUSTOM|DELEGATE|SVDF|.*(LSTM|RNN|STABLEHLO).*"
)
_OPAQUE_ONNX = re.compile(r"Loop|Scan|If|DeformConv|Attention|.*(QLinear|Integer).*")


def tflite_flops(data):
    """Count the FLOPs of one run of a TFLite file at its stored shapes.

    Args:
        data: the file's bytes.

    Returns:
        int; None where the graph has free dimensions or an operator that cannot be counted.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    total = 0
    for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")
        if _OPAQUE_TFLITE.fullmatch(name):
            return None
        if name in _TFLITE:
            operands = [*operator.InputsAsNumpy()[:3], operator.OutputsAsNumpy()[0]]
            shapes = [_tflite_shape(graph, index) for index in operands]
            if any(shape is None for shape in shapes):
                return None
            total += _TFLITE[name](schema, operator, shapes[-1], *shapes[:-1])
    return total


def _tflite_shape(graph, index):
    if index < 0:
        return ()  # an operand left out, such as a bias
    tensor = graph.Tensors(index)
    signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else []
    if any(size < 0 for size in signature):
        return None
    return tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()


def _batch_matmul(schema, operator, out, a, *_):
    options = schema.BatchMatMulOptions()
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return 2 * math.prod(out) * a[-2 if options.AdjX() else -1]


_TFLITE = {
    # Kernels stand as [out, ..., in]; depthwise ones as [1, ..., out].
    "CONV_2D": lambda _, __, out, x, kernel, *bias: 2 * math.prod(out) * math.prod(kernel[1:]),
    "DEPTHWISE_CONV_2D": lambda _, __, out, x, kernel, *bias: (
        2 * math.prod(out) * math.prod(kernel[1:-1])
    ),
    "FULLY_CONNECTED": lambda _, __, out, x, kernel, *bias: 2 * math.prod(out) * kernel[-1],
    "TRANSPOSE_CONV": lambda _, __, out, size, kernel, x: 2 * math.prod(x) * math.prod(kernel[:-1]),
    "CONV_3D": lambda _, __, out, x, kernel, *bias: 2 * math.prod(out) * math.prod(kernel[:-1]),
    "CONV_3D_TRANSPOSE": lambda _, __, out, size, kernel, x: (
        2 * math.prod(x) * math.prod(kernel[:-1])
    ),
    "BATCH_MATMUL": _batch_matmul,
}


def onnx_flops(data, batch_size=1, free_dim=None):
    """Count the FLOPs of one run of an ONNX file.

    Args:
        data: the file's bytes.
        batch_size: int, the size of the first dimension of inputs that leave it free.
        free_dim: int, the size of other free dimensions of the inputs.

    Returns:
        int; None where shapes cannot be inferred or an operator cannot be counted.
    """
    import onnx

    model = onnx.ModelProto.FromString(data)
    del model.graph.value_info[:]  # those of the exporter do not follow the batch size
    for tensor in model.graph.sparse_initializer:  # to shape inference, ordinary inputs
        kind, dims = tensor.values.data_type, list(tensor.dims)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.values.name, kind, dims))
    del model.graph.sparse_initializer[:]
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants:
            for number, dim in enumerate(dims):
                if not dim.dim_value:
                    dim.dim_value = (free_dim or 0) if number else batch_size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(dim.dim_value for dim in dims)  # 0: not known
    total = 0
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or _OPAQUE_ONNX.fullmatch(node.op_type):
            return None
        if node.op_type in _ONNX:
            inputs = [name for name in node.input[:3] if name]
            operands = [shapes.get(name) for name in (node.output[0], *inputs)]
            if node.op_type in ("LSTM", "GRU", "RNN"):
                operands[0] = ()  # the output may be left out, and is not asked for
            if any(shape is None or 0 in shape for shape in operands[:3]):
                return None
            total += _ONNX[node.op_type](node, *operands)
    return total


def _gemm(node, out, a, *_):
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(out) * a[0 if transposed else 1]


def _recurrent(node, _, x, kernel, recurrent_kernel):
    return 2 * x[0] * x[1] * (math.prod(kernel) + math.prod(recurrent_kernel))


def _einsum(node, out, *operands):
    (equation,) = [a.s.decode() for a in node.attribute if a.name == "equation"]
    return einsum_flops(equation, operands)


_ONNX = {
    # Kernels stand as [out, in / groups, ...]; transposed ones as [in, out / groups, ...].
    "Conv": lambda _, out, x, kernel, *bias: 2 * math.prod(out) * math.prod(kernel[1:]),
    "ConvTranspose": lambda _, out, x, kernel, *bias: 2 * math.prod(x) * math.prod(kernel[1:]),
    "MatMul": lambda _, out, a, b, *__: 2 * math.prod(out) * a[-1],
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
