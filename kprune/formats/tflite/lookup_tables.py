"""Weights of few values in TensorFlow Lite Micro's lookup tables: 1 to 7 bits for each entry.

A custom operator, TFLM_DECODE, stands before each operator that reads such a weight, and unpacks it
into the arena at every run. The format is in the package's decode.py and lut.py
(tensorflow/lite/micro/compression): for each weight a tensor of packed indices, the most
significant bit first, and one of a 16-byte header and the tables.

The header has a field for the axis of the tables, which the package's interpreter does not read
(tried with 0.dev20261023182759): it takes a table for each channel where the weight is quantized by
channel, and one for all elsewhere. So tables are made that way here, and a float32 weight with
tables by channel gets scales, all 1, which kernels for floats do not look at.
"""

import json
import math
from typing import NamedTuple

import numpy as np

from kprune.formats.tflite.file import DTYPES, operator_name, packed, parsed
from kprune.formats.weights import Constant

DECODE = b"TFLM_DECODE"
LARGEST = 128  # values in a table, of 7 bits
# Those that run right with an unpacked weight, tried one by one; the weight is their input 1.
OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_HEADER = 16  # bytes
_AROUND = 512  # bytes: about what an operator and its tensors take in a file


class Table(NamedTuple):
    """How a weight is stored.

    Attributes:
        bits: of an index.
        axis: of the channels that have tables of their own; None for one table.
        size: bytes of indices and tables.
    """

    bits: int
    axis: int | None
    size: int


def find(blob):
    """Find the constants of a file that are smaller with lookup tables.

    Args:
        blob: the bytes of a TFLite file.

    Returns:
        {index of the tensor in the first subgraph: `Table`}.
    """
    file = parsed(blob)
    found = {}
    for index, (readers, values) in _weights(file).items():
        tensor = file.subgraphs[0].tensors[index]
        tables = [table for axis in _axes(tensor, readers) if (table := _table(values, axis))]
        best = min(tables, key=lambda table: table.size, default=None)
        if best is not None and best.size + len(readers) * _AROUND < values.nbytes:
            found[index] = best
    return found


def transform(blob, tables):
    """Store constants in lookup tables.

    Args:
        blob: the bytes of a TFLite file.
        tables: some of `find(blob)`.

    Returns:
        The bytes of a file that only TensorFlow Lite Micro runs.
    """
    from tflite_micro import compression

    entries = []
    for index, table in tables.items():
        mode = {"per_tensor": None}
        if table.axis is not None:
            mode = {"per_channel": {"axis": table.axis}}
        lut = {"lut": {"index_bitwidth": table.bits, **mode}}
        entries.append({"subgraph": 0, "tensor": index, "compression": [lut]})
    # JSON is YAML.
    asked = compression.parse_yaml(json.dumps({"tensors": entries}))
    return bytes(compression.compress(_with_scales(blob, tables), asked))


def decoded(blob):
    """Read the weights of a file that are in lookup tables, as its interpreter does.

    Args:
        blob: the bytes of a TFLite file.

    Returns:
        A list of `Constant`s, each weight once; damaged bytes raise one of `damaged.DAMAGE`.
    """
    file, found = parsed(blob), {}
    graph = file.subgraphs[0]
    for operator in graph.operators:
        if file.operatorCodes[operator.opcodeIndex].customCode == DECODE:
            pairs = np.reshape(operator.inputs, (-1, 2)).tolist()
            for (indices, tables), output in zip(pairs, operator.outputs):
                made = graph.tensors[output]
                if indices not in found:
                    stored = [bytes(_data(file, graph.tensors[i])) for i in (indices, tables)]
                    found[indices] = _decoded(*stored, made)
    return list(found.values())


def _weights(file):
    """{index: (the operators that read it, values)} of the weights that tables are for."""
    graph, readers = file.subgraphs[0], {}
    for operator in graph.operators:
        name = operator_name(file.operatorCodes[operator.opcodeIndex])
        for position, index in enumerate(operator.inputs):
            readers.setdefault(int(index), []).append((name, position))
    found = {}
    for index, uses in readers.items():
        if index < 0 or not all(name in OPERATORS and at == 1 for name, at in uses):
            continue
        tensor = graph.tensors[index]
        data, dtype = _data(file, tensor), DTYPES.get(tensor.type)
        plain = data is not None and len(data) and tensor.sparsity is None
        if plain and dtype in ("float32", "int8"):
            values = np.frombuffer(bytes(data), dtype).reshape(tensor.shape)
            found[index] = [name for name, _ in uses], values
    return found


def _data(file, tensor):
    return file.buffers[tensor.buffer].data


def _axes(tensor, readers):
    """The axes that tables may have: the one of a quantized weight's scales; None for one table."""
    axis = _scaled_axis(tensor)
    if DTYPES[tensor.type] == "int8":
        return [axis]
    # As quantized weights have it.
    return [None, len(tensor.shape) - 1 if "DEPTHWISE_CONV_2D" in readers else 0]


def _scaled_axis(tensor):
    """The axis of the channels that have scales of their own; None where one scale is for all."""
    quantization = tensor.quantization
    several = quantization is not None and quantization.scale is not None
    return quantization.quantizedDimension if several and len(quantization.scale) > 1 else None


def _table(values, axis):
    """Return the `Table` of a weight; None where it has too many values."""
    channels = [values] if axis is None else np.moveaxis(values, axis, 0)
    longest = max(len(np.unique(channel)) for channel in channels)
    if longest > LARGEST:
        return None
    bits = max(1, (longest - 1).bit_length())
    tables = len(channels) * longest * values.itemsize
    return Table(bits, axis, math.ceil(values.size * bits / 8) + _HEADER + tables)


def _with_scales(blob, tables):
    from ai_edge_litert import schema_py_generated as schema

    file = parsed(blob)
    for index, table in tables.items():
        tensor = file.subgraphs[0].tensors[index]
        if table.axis is not None and _scaled_axis(tensor) is None:
            channels = tensor.shape[table.axis]
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.ones(channels, "float32")
            tensor.quantization.zeroPoint = np.zeros(channels, "int64")
            tensor.quantization.quantizedDimension = table.axis
    return packed(file)


def _decoded(indices, tables, made):
    """Return the `Constant` of packed indices, a header and tables, and the tensor they become."""
    shape, dtype = tuple(map(int, made.shape)), DTYPES[made.type]
    bits, stride = tables[5] & 7, tables[6]
    if math.prod(shape) * bits > 8 * len(indices):
        raise ValueError(f"a weight in a lookup table has fewer indices than entries, {shape}")
    unpacked = np.unpackbits(np.frombuffer(indices, "uint8"))[: math.prod(shape) * bits]
    codes = unpacked.reshape(-1, bits) @ (1 << np.arange(bits)[::-1])
    values = np.frombuffer(tables[_HEADER:], dtype)
    axis = _scaled_axis(made)
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    codes = codes.reshape(shape)
    if axis is not None:
        codes = codes + stride * np.arange(shape[axis]).reshape(along)
    stored = values[codes]
    real = stored
    if dtype == "int8":
        scale = made.quantization.scale
        real = stored.astype("int32") * (scale.reshape(along) if axis is not None else scale)
    _, numbers = np.unique(stored, return_inverse=True)
    numbers = np.where(stored == 0, 0, numbers.reshape(shape) + 1)
    return Constant(real, dtype, f"{bits}-bit table", codes=numbers)
