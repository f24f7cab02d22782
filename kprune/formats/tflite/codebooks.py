"""Clustered weights in a `.tflite` file: 8-bit codes, which LiteRT makes floats at loading.

The arithmetic stays in float32, and so do the outputs: a code times its scale is the very float
that the Keras model computes with. What is gained is the size, above all under gzip.
"""

import math

import numpy as np

from kprune._system.errors import ExportError
from kprune.formats.tflite.file import packed, parsed
from kprune.formats.tflite.unpack import unpack
from kprune.formats.weights import axis_orders
from kprune.graphs.weights import weights_of
from kprune.training.clustering.weight_clustering import SMALLEST_STORED, grid

CODEBOOK = "codebook"
_CLOSE = 1e-6  # relative, of a kernel that a BatchNormalization was folded into


def transform(blob, model):
    """Store the constants that hold clustered weights as 8-bit codes.

    Args:
        blob: the bytes of a TFLite file in float32, stored dense.
        model: the Keras model it was converted from.

    Returns:
        The bytes of the changed file.

    Raises:
        ExportError: there is no such constant.
    """
    kernels = _shared_kernels(model)
    file = parsed(blob)
    graph = file.subgraphs[0]
    outputs = set(map(int, graph.outputs))
    done = {}
    for index, tensor in enumerate(graph.tensors):
        values = _constant(file, tensor)
        if values is None or index in outputs:
            continue
        found = _per_tensor(values) or _per_channel(values, kernels)
        if found is not None:
            done[index] = found
    if not done:
        raise ExportError(_nothing_to_store(model, kernels))
    for index, (scales, axis, codes) in done.items():
        _store(file, graph.tensors[index], scales, axis, codes)
    unpack(file, done, "DEQUANTIZE", version=2)
    return packed(file)


def _nothing_to_store(model, kernels):
    if not kernels:
        return (
            f"No weight of the model '{model.name}' is clustered, so there is nothing to store as "
            "codes: train it with kprune.WeightClustering(), or use kprune.compress."
        )
    if max(codes.size for codes in kernels) < SMALLEST_STORED:
        return (
            f"The clustered weights of the model '{model.name}' have fewer than {SMALLEST_STORED} "
            "entries each, and would take more room as codes than they do in float32: leave "
            "quantize out, or use quantize='float16'."
        )
    return (
        f"The converter has changed the clustered weights of the model '{model.name}' so that they "
        "are no longer clustered in the file: use quantize='int8' or 'dynamic'."
    )


def _shared_kernels(model):
    """Return the codes of the model's kernels that are on a grid, as int8 arrays."""
    import keras

    found = []
    for weight in weights_of(model):
        if weight.is_kernel:
            value = keras.ops.cast(weight.variable.value, "float32")
            exact = _per_tensor(keras.ops.convert_to_numpy(value))
            if exact is not None:
                found.append(exact[2])
    return found


def _constant(file, tensor):
    """Return the values of a float32 constant that is stored dense; None for other tensors."""
    from ai_edge_litert import schema_py_generated as schema

    data = file.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or tensor.sparsity is not None:
        return None
    shape = [] if tensor.shape is None else list(tensor.shape)
    if len(shape) < 2 or math.prod(shape) < SMALLEST_STORED:
        return None
    return np.frombuffer(bytes(data), "float32").reshape(shape)


def _per_tensor(values):
    """Return (scales, axis, codes) where codes times one scale are the values; else None."""
    scale, codes = grid(values)
    largest = np.abs(values).max(initial=0)
    # The scale that the values were made with is at most a rounding away.
    for each in (scale, np.nextafter(scale, np.float32(0)), np.nextafter(scale, np.inf)):
        if largest > 0 and np.array_equal(np.float32(each) * codes.astype("float32"), values):
            return np.array([each], "float32"), 0, codes
    return None


def _per_channel(values, kernels):
    """The same with a scale for each channel, for a kernel with BatchNormalization folded in."""
    zeros = int(np.count_nonzero(values == 0))
    for codes in kernels:
        if codes.size != values.size or zeros < np.count_nonzero(codes == 0):
            continue
        for order in axis_orders(codes.ndim):
            there = codes.transpose(order).reshape(values.shape)
            for axis in sorted({0, values.ndim - 1}):
                found = _scales(np.moveaxis(values, axis, 0), np.moveaxis(there, axis, 0))
                if found is not None:
                    scales, signs = found
                    along = [-1 if i == axis else 1 for i in range(values.ndim)]
                    return scales, axis, there * signs.reshape(along)
    return None


def _scales(values, codes):
    """Return the scale of each row and its sign; None where rows are no multiples of the codes."""
    values, codes = (a.reshape(len(a), -1) for a in (values, codes.astype("float32")))
    largest = np.abs(codes).argmax(1)[:, None]
    top = np.take_along_axis(codes, largest, 1)
    factors = np.take_along_axis(values, largest, 1) / np.where(top, top, 1)
    bound = _CLOSE * np.abs(values).max(1, keepdims=True)
    if not (np.abs(factors * codes - values) <= bound).all():
        return None
    factors = factors[:, 0]
    return np.where(factors, np.abs(factors), 1), np.where(factors < 0, -1, 1).astype("int8")


def _store(file, tensor, scales, axis, codes):
    from ai_edge_litert import schema_py_generated as schema

    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = scales, np.zeros(len(scales), "int64")
    quantization.quantizedDimension = axis
    tensor.quantization, tensor.type = quantization, schema.TensorType.INT8
    # Not in the buffer that it was in, which other constants may share.
    old, buffer = tensor.buffer, schema.BufferT()
    buffer.data = np.ascontiguousarray(codes).view("uint8").ravel()
    file.buffers.append(buffer)
    tensor.buffer = len(file.buffers) - 1
    if not any(t.buffer == old for graph in file.subgraphs for t in graph.tensors):
        file.buffers[old].data = None
