"""FLOPs of ONNX graphs, by the definition of `flops`, where their shapes can be inferred."""

import math
import re

from kprune.graphs.products import einsum_flops

# Operators whose cost stands in another graph, depends on data, or is not known here.
_OPAQUE = re.compile(r"Loop|Scan|If|DeformConv|Attention|.*(QLinear|Integer).*")


def onnx_flops(blob, batch_size=1, shapes=None):
    """Count the FLOPs of one run of an ONNX file.

    Args:
        blob: the file's bytes.
        batch_size: int, the size of the first dimension of inputs that leave it free.
        shapes: {input name: shape}, for other dynamic dimensions.

    Returns:
        int; None where shapes cannot be inferred or an operator cannot be counted.
    """
    import onnx

    model = onnx.ModelProto.FromString(blob)
    del model.graph.value_info[:]  # those of the exporter do not follow the batch size
    for tensor in model.graph.sparse_initializer:  # to shape inference, ordinary inputs
        kind, dims = tensor.values.data_type, list(tensor.dims)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.values.name, kind, dims))
    del model.graph.sparse_initializer[:]
    constants, given = {tensor.name for tensor in model.graph.initializer}, shapes or {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants:
            for number, dim in enumerate(dims):
                if not dim.dim_value:
                    known = given.get(value.name, ())
                    dim.dim_value = ([batch_size, *known[1:]] + [0] * len(dims))[number]
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
        if node.domain not in ("", "ai.onnx") or _OPAQUE.fullmatch(node.op_type):
            return None
        if node.op_type in _COUNTS:
            inputs = [name for name in node.input[:3] if name]
            operands = [shapes.get(name) for name in (node.output[0], *inputs)]
            if node.op_type in ("LSTM", "GRU", "RNN"):
                operands[0] = ()  # the output may be left out, and is not asked for
            if any(shape is None or 0 in shape for shape in operands[:3]):
                return None
            total += _COUNTS[node.op_type](node, *operands)
    return total


def _gemm(node, out, a, *_):
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(out) * a[0 if transposed else 1]


def _recurrent(node, _, x, kernel, recurrent_kernel):
    return 2 * x[0] * x[1] * (math.prod(kernel) + math.prod(recurrent_kernel))


def _einsum(node, out, *operands):
    from onnx import helper

    return einsum_flops(helper.get_node_attr_value(node, "equation").decode(), operands)


_COUNTS = {
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
