"""The constants of a TFLite file: their real values, and how many of those are zero."""

import math

import numpy as np

from kprune.formats.tflite import lookup_tables
from kprune.formats.tflite.file import DTYPES, integers, stored, tensors, view
from kprune.formats.tflite.sparsity import densified
from kprune.formats.weights import Constant


def tflite_constants(blob):
    """Return the constants of rank 2 or more in the TFLite file with the bytes `blob`.

    Raises:
        ValueError: a sparse weight is read by an operator that cannot.
    """
    model, constants = view(blob), []
    for tensor in tensors(model):
        buffer = model.Buffers(tensor.Buffer())
        dtype = DTYPES.get(tensor.Type())
        if dtype and tensor.ShapeLength() > 1 and buffer.DataLength():
            constants.append(_constant(tensor, stored(model, tensor), dtype))
    return [constant for constant in constants if constant is not None]


def _constant(tensor, values, dtype):
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    encoding = "dense"
    if tensor.Sparsity() is not None:
        values, encoding = densified(tensor.Sparsity(), values, shape), "sparse"
    values, codes = values.reshape(shape), None
    if "int" in dtype:
        quantization = tensor.Quantization()
        if quantization is None or not quantization.ScaleLength():
            return None  # an index or a shape, not a weight
        along = [1] * len(shape)
        along[quantization.QuantizedDimension()] = -1
        scale = quantization.ScaleAsNumpy()
        zero = quantization.ZeroPointAsNumpy()
        along = along if scale.size > 1 else [1] * len(shape)
        codes = values.astype("int32") - zero.reshape(along)
        values = codes * scale.reshape(along)
    return Constant(values, dtype, encoding, codes=codes if dtype in ("int8", "int4") else None)


def tflite_zeros(model, tensor):
    """Count the zeros (integers: values at the zero point) of a TFLite file's constant.

    A sparse one is not made dense for it: its size is not bounded by the file's.

    Args:
        model: the `schema.Model`.
        tensor: a `schema.Tensor` of it.

    Returns:
        (number of zeros, number of entries); no zeros where its type is none of a weight's.
    """
    shape = integers(tensor.ShapeAsNumpy())
    size = math.prod(shape) if min(shape, default=1) > 0 else 0
    dtype = DTYPES.get(tensor.Type())
    if not dtype:
        return 0, size
    values = stored(model, tensor)
    quantization = tensor.Quantization()
    if "int" in dtype and quantization is not None and quantization.ZeroPointLength():
        zero = quantization.ZeroPointAsNumpy()
        if zero.size == 1:
            values = values != zero[0]
        elif zero.any():
            along = [1] * len(shape)
            along[quantization.QuantizedDimension()] = -1
            values = values.reshape(shape) != zero.reshape(along)
    return max(0, size - int(np.count_nonzero(values))), size


def tflite_weights(blob):
    """Yield what `tflite_zeros` says of each weight of rank 2 or more of a TFLite file.

    Raises:
        ValueError: the file's buffers overlap, so that few bytes would be many weights.
    """
    model, left = view(blob), 8 * len(blob)  # an entry in a lookup table takes a bit at least
    for tensor in tensors(model):
        length = model.Buffers(tensor.Buffer()).DataLength()
        if tensor.ShapeLength() < 2 or not length or not _is_weight(tensor):
            continue
        left -= length
        if left < 0:
            raise ValueError("its buffers overlap")
        yield tflite_zeros(model, tensor)
    if lookup_tables.DECODE in blob:
        for constant in lookup_tables.decoded(blob):
            left -= constant.values.size
            if left < 0:
                raise ValueError("its buffers overlap")
            yield int(np.count_nonzero(constant.values == 0)), constant.values.size


def _is_weight(tensor):
    """Whether a tensor has real values; other integers are indices or shapes."""
    dtype, quantization = DTYPES.get(tensor.Type(), ""), tensor.Quantization()
    return "float" in dtype or bool(dtype and quantization and quantization.ScaleLength())
