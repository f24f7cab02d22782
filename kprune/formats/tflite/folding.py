"""Numbers that inputs are normalized by, inside the first kernel instead.

`W ((x - m) k) + b` is `(W k) x + (b - W k m)`. A file whose inputs are integers then takes them as
they are, with nothing before its first kernel. In the bias W k is rounded to 8 bits, as the file
will have it: with inputs far from zero its rounding would shift all outputs.
"""

import numpy as np

from kprune.formats.tflite.file import operator_name, packed, parsed
from kprune.formats.tflite.operators import PADDING_SAME

_KERNELS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def transform(blob, names):
    """Fold operators that add and multiply by constants into the kernel that reads them.

    Those stay that a kernel does not directly follow, and an addition before a convolution with
    `same` padding: its zeros are added after.

    Args:
        blob: the bytes of a TFLite file in float32.
        names: of the operators' outputs, of which those are folded that can be.

    Returns:
        The bytes of the changed file; `blob` where nothing is folded.
    """
    file = parsed(blob)
    graph = file.subgraphs[0]
    before = len(graph.operators)
    for operator in graph.operators[::-1]:
        if graph.tensors[operator.outputs[0]].name.decode() in names:
            readers = [each for each in graph.operators if operator.outputs[0] in each.inputs]
            if len(readers) == 1 and _fold(file, graph, operator, readers[0]):
                graph.operators = [each for each in graph.operators if each is not operator]
    return packed(file) if len(graph.operators) < before else blob


def _fold(file, graph, operator, reader):
    """Change the reader's kernel and input, if that can be; return whether."""
    name, kind = (operator_name(file.operatorCodes[o.opcodeIndex]) for o in (operator, reader))
    if operator.outputs[0] in graph.outputs or operator.builtinOptions.fusedActivationFunction:
        return False
    first, second = (int(index) for index in operator.inputs)
    constant, source = _values(file, graph, second), first
    if constant is None and name in ("ADD", "MUL"):
        constant, source = _values(file, graph, first), second
    kernel = _values(file, graph, reader.inputs[1]) if kind in _KERNELS else None
    if constant is None or kernel is None or reader.inputs[0] != operator.outputs[0]:
        return False
    channels = graph.tensors[source].shape[-1]
    if constant.size not in (1, channels) or constant.size != (constant.shape or (1,))[-1]:
        return False
    factors = _by_input(kind, kernel, np.broadcast_to(constant.ravel(), (channels,)))
    if factors is None:
        return False
    if name in ("MUL", "DIV"):
        kernel = kernel * factors if name == "MUL" else kernel / factors
        reader.inputs = [source, _add(file, graph, reader.inputs[1], kernel), *reader.inputs[2:]]
        return True
    if kind != "FULLY_CONNECTED" and reader.builtinOptions.padding == PADDING_SAME:
        return False
    offsets = _rounded(kernel, kind) * factors
    _shift(file, graph, reader, kind, -offsets if name == "SUB" else offsets)
    reader.inputs = [source, *reader.inputs[1:]]
    return True


def _by_input(kind, kernel, factors):
    """Bring a number for each input channel into the kernel's shape; None if they do not fit."""
    if kind == "DEPTHWISE_CONV_2D":  # [1, height, width, inputs x multiplier]
        multiplier, rest = divmod(kernel.shape[-1], len(factors))
        return None if rest else np.repeat(factors, multiplier)
    return factors if kernel.shape[-1] == len(factors) else None


def _other_axes(kernel, kind):
    """The axes of a kernel but for that of its outputs."""
    depthwise = kind == "DEPTHWISE_CONV_2D"
    return tuple(range(kernel.ndim - 1)) if depthwise else tuple(range(1, kernel.ndim))


def _rounded(kernel, kind):
    """A kernel as TFLite rounds it: symmetric, in 8 bits, by output channel."""
    scale = np.abs(kernel).max(_other_axes(kernel, kind), keepdims=True) / 127
    return np.round(kernel / np.where(scale, scale, 1)) * scale


def _shift(file, graph, reader, kind, offsets):
    """Add to the reader's bias what its kernel, times the inputs' offsets, sums up to."""
    shift = offsets.sum(_other_axes(offsets, kind), dtype="float64")
    inputs = [int(index) for index in reader.inputs]
    has_bias = len(inputs) > 2 and inputs[2] >= 0
    bias = _values(file, graph, inputs[2]) if has_bias else np.zeros(shift.shape, "float32")
    new = _add(file, graph, inputs[2] if has_bias else inputs[1], bias + shift, b"_bias")
    reader.inputs = [*inputs[:2], new]


def _values(file, graph, index):
    """Return a float32 constant as an array; None for any other tensor."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = graph.tensors[index]
    data = file.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32 or tensor.sparsity is not None:
        return None
    shape = [] if tensor.shape is None else list(tensor.shape)
    return np.frombuffer(bytes(data), "float32").reshape(shape)


def _add(file, graph, index, values, suffix=b""):
    """Add a constant, named after another one, which may have other readers; return its index."""
    from ai_edge_litert import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.ascontiguousarray(values, "float32").view("uint8").ravel()
    file.buffers.append(buffer)
    tensor.shape, tensor.type = np.array(values.shape, "int32"), schema.TensorType.FLOAT32
    tensor.name = graph.tensors[index].name + b"_folded" + suffix
    tensor.buffer = len(file.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
