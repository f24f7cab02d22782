"""FLOPs of TFLite graphs, by the definition of `flops`, where their shapes are known."""

import math
import re

from kprune.formats.tflite.file import operator_name, options, view

# Operators whose cost stands in another graph, depends on data, or is not known here.
_OPAQUE = re.compile(r"WHILE|IF|CALL|CALL_ONCE|CUSTOM|DELEGATE|SVDF|.*(LSTM|RNN|STABLEHLO).*")


def tflite_flops(blob):
    """Count the FLOPs of one run of a TFLite file at its stored shapes.

    Args:
        blob: the file's bytes.

    Returns:
        int; None where the graph has dynamic dimensions or an operator that cannot be counted.
    """
    model = view(blob)
    graph = model.Subgraphs(0)
    total = 0
    for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        name = operator_name(model.OperatorCodes(operator.OpcodeIndex()))
        if _OPAQUE.fullmatch(name):
            return None
        if name in _COUNTS:
            operands = [*operator.InputsAsNumpy()[:3], operator.OutputsAsNumpy()[0]]
            shapes = [_shape(graph, index) for index in operands]
            if any(shape is None for shape in shapes):
                return None
            total += _COUNTS[name](operator, shapes[-1], *shapes[:-1])
    return total


def _shape(graph, index):
    if index < 0:
        return ()  # an operand left out, such as a bias
    tensor = graph.Tensors(index)
    signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else []
    if any(size < 0 for size in signature):
        return None
    return tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()


def _batch_matmul(operator, out, a, *_):
    transposed = options(operator, "BatchMatMulOptions").adjX
    return 2 * math.prod(out) * a[-2 if transposed else -1]


_COUNTS = {
    # Kernels stand as [out, ..., in]; depthwise ones as [1, ..., out].
    "CONV_2D": lambda _, out, x, kernel, *bias: 2 * math.prod(out) * math.prod(kernel[1:]),
    "DEPTHWISE_CONV_2D": lambda _, out, x, kernel, *bias: (
        2 * math.prod(out) * math.prod(kernel[1:-1])
    ),
    "FULLY_CONNECTED": lambda _, out, x, kernel, *bias: 2 * math.prod(out) * kernel[-1],
    "TRANSPOSE_CONV": lambda _, out, size, kernel, x: 2 * math.prod(x) * math.prod(kernel[:-1]),
    "CONV_3D": lambda _, out, x, kernel, *bias: 2 * math.prod(out) * math.prod(kernel[:-1]),
    "CONV_3D_TRANSPOSE": lambda _, out, size, kernel, x: 2 * math.prod(x) * math.prod(kernel[:-1]),
    "BATCH_MATMUL": _batch_matmul,
}
