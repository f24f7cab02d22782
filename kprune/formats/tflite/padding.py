"""`same` padding in a `.tflite` file as a PAD of its own, the form XNNPACK's sparse path knows.

On images of odd height and width, `same` padding at stride 2 is as much on both sides, and
TFLite's converter makes it of any explicit padding there; XNNPACK then only sees that it is `same`.
"""

import numpy as np

from kprune.formats.tflite.file import opcode, operator_name, packed, parsed

_SIZES = {"CONV_2D": (3,), "DEPTHWISE_CONV_2D": (3, 5)}


def transform(blob):
    """Write symmetric `same` padding at stride 2 as a PAD.

    Args:
        blob: the bytes of a TFLite file.

    Returns:
        The bytes of the changed file, which is the same function; `blob` where there is no such
        padding.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(blob)
    graph, operators = model.subgraphs[0], []
    for operator in graph.operators:
        sizes = _SIZES.get(operator_name(model.operatorCodes[operator.opcodeIndex]), ())
        size = _symmetric_size(graph, operator) if sizes else None
        if size in sizes:
            operators.append(_pad(model, operator, size // 2))
            operator.builtinOptions.padding = schema.Padding.VALID
        operators.append(operator)
    if len(operators) == len(graph.operators):
        return blob
    graph.operators = operators
    return packed(model)


def _symmetric_size(graph, operator):
    """The kernel size of a convolution of stride 2 with as much `same` padding on all sides."""
    from ai_edge_litert import schema_py_generated as schema

    options = operator.builtinOptions
    image, kernel = (graph.tensors[index] for index in operator.inputs[:2])
    same = options.padding == schema.Padding.SAME
    dilated = (options.dilationHFactor, options.dilationWFactor) != (1, 1)
    floats = image.type == schema.TensorType.FLOAT32
    if not same or dilated or not floats or (options.strideH, options.strideW) != (2, 2):
        return None
    height, width = kernel.shape[1:3]
    odd = all(size % 2 == 1 for size in (*image.shape[1:3], height))
    return int(height) if odd and height == width else None


def _pad(model, operator, border):
    """Put a PAD before an operator's first input; return it."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    pairs, data = schema.TensorT(), schema.BufferT()
    values = np.array([[0, 0], [border, border], [border, border], [0, 0]], "int32")
    data.data = values.view("uint8").ravel()
    model.buffers.append(data)
    pairs.shape, pairs.type = np.array([4, 2], "int32"), schema.TensorType.INT32
    pairs.name, pairs.buffer = b"paddings", len(model.buffers) - 1
    image, larger = graph.tensors[operator.inputs[0]], schema.TensorT()
    larger.shape = image.shape + values.sum(1, dtype="int32")
    if image.shapeSignature is not None:
        larger.shapeSignature = np.where(image.shapeSignature < 0, -1, larger.shape)
    larger.type, larger.buffer, larger.name = image.type, 0, (image.name or b"image") + b"_padded"
    graph.tensors += [pairs, larger]
    pad = schema.OperatorT()
    pad.opcodeIndex = opcode(model, "PAD", 1)
    pad.inputs = np.array([operator.inputs[0], len(graph.tensors) - 2], "int32")
    pad.outputs = np.array([len(graph.tensors) - 1], "int32")
    operator.inputs = np.array([len(graph.tensors) - 1, *operator.inputs[1:]], "int32")
    return pad
