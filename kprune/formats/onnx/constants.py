"""What constants an ONNX file really holds, whatever it stores them as."""

import math

import numpy as np

from kprune.formats.damaged import DAMAGE, damaged, read_bytes
from kprune.formats.onnx.sparse_initializers import densified
from kprune.formats.weights import Constant

# How ONNX Runtime's quantizer names what belongs to the 8-bit weight `<name>_quantized`.
_QUANTIZED, _SCALE, _ZERO_POINT = "_quantized", "_scale", "_zero_point"
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_MOST_BYTES = 2**32  # of weights that a file stores sparse: a few bytes may say to be many


def onnx_constants(blob):
    """Return the constants of rank 2 or more in the ONNX file with the bytes `blob`.

    Raises:
        ValueError: no graph, or a sparse weight that is no such thing.
    """
    import onnx

    graphs, constants = [onnx.ModelProto.FromString(blob).graph], []
    if not graphs[0].node:
        raise ValueError("it holds no ONNX graph")
    for graph in graphs:  # which grows
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    _require_bounded(graphs)
    for graph in graphs:
        # The recurrent operators hold the weights of both directions in one constant.
        recurrent = [node for node in graph.node if node.op_type in _RECURRENT]
        converted = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type in ("Cast", "DequantizeLinear")
        }
        by_direction = {converted.get(n, n) for node in recurrent for n in node.input[1:3]}
        dense = [(tensor.name, tensor, "dense") for tensor in graph.initializer]
        sparse = [(tensor.values.name, tensor, "sparse") for tensor in graph.sparse_initializer]
        scaled = _Scaled(graph)
        for name, tensor, encoding in dense + sparse:
            if len(tensor.dims) < 2:
                continue
            read = onnx.numpy_helper.to_array if encoding == "dense" else densified
            stored_values = read(tensor)
            values, dtype = scaled(name, stored_values), stored_values.dtype.name
            if "float" in values.dtype.name:
                parts = values if name in by_direction else [values]
                constants += [Constant(part, dtype, encoding, name) for part in parts]
    return constants


def onnx_weights(path):
    """Return (name, size, number of zeros) of each weight of rank 2 or more in a `.onnx` file.

    Raises:
        ValueError: it is damaged; the message names it.
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError

    blob = read_bytes(path)
    try:
        constants = onnx_constants(blob)
    except (*DAMAGE, DecodeError) as error:
        raise damaged(path, "ONNX", error) from error
    return [
        (one.name, one.values.size, one.values.size - int(np.count_nonzero(one.values)))
        for one in constants
    ]


def _require_bounded(graphs):
    """Refuse what a few bytes say to be much, or elsewhere."""
    import onnx

    sparse = [tensor for graph in graphs for tensor in graph.sparse_initializer]
    sizes = [math.prod(tensor.dims) for tensor in sparse]
    if min(sizes, default=0) < 0 or 4 * sum(sizes) > _MOST_BYTES:
        raise ValueError(f"the sparse weights say to hold {sum(sizes):,} values")
    dense = [tensor for graph in graphs for tensor in graph.initializer]
    for tensor in dense + [part for each in sparse for part in (each.values, each.indices)]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(
                f"'{tensor.name}' is stored in another file, which is not read: save the model "
                "with all its weights in one file"
            )


class _Scaled:
    """Gives the real values of the 8-bit weights of a graph."""

    def __init__(self, graph):
        import onnx

        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._read = onnx.numpy_helper.to_array
        self._axes = {
            node.input[0]: attribute.i
            for node in graph.node
            if node.op_type == "DequantizeLinear"
            for attribute in node.attribute
            if attribute.name == "axis"
        }

    def __call__(self, name, values):
        base = name.removesuffix(_QUANTIZED)
        parts = [self._tensors.get(base + part) for part in (_SCALE, _ZERO_POINT)]
        if values.dtype.name not in ("int8", "uint8") or None in parts:
            return values
        scale, zero = map(self._read, parts)
        along = self._along(name, values, scale)
        return (values.astype("int32") - zero.astype("int32").reshape(along)) * scale.reshape(along)

    def _along(self, name, values, scale):
        """The shape of the scales beside the values: one, one a channel, or one a direction."""
        along = [1] * values.ndim
        if scale.size == 1:
            return along
        if scale.ndim == 2:  # of a recurrent operator: [directions, channels]
            return [len(scale), 1, -1]
        along[self._axes.get(name, -1)] = -1
        return along
