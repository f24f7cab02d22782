"""What weights a TFLite or ONNX file really holds, read from its bytes."""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

_TFLITE_DTYPES = {0: "float32", 1: "float16", 7: "int16", 9: "int8", 10: "float64"}
# How alike a stored weight and a Keras weight must be (cosine) to be taken for the same. Rounding
# to 8 bits leaves it at 0.99; two weights of random normal values are alike by 0.64.
_ALIKE = 0.9
_SAMPLED = 8192
# How far rounding to 7 bits moves a weight, and some more, as a share of the largest one.
_ROUNDED = 0.02


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One kernel or other prunable weight, as the file stores it.

    Attributes:
        name: path of the Keras weight it was made from.
        shape: its shape in the file, where axes stand in another order than in Keras.
        dtype: what it is stored as.
        sparsity: share of zeros (integers: of values at the zero point), as a fraction.
        encoding: `"dense"` or `"sparse"`.
        values: of a `.tflite` weight in 8 bits, how many different codes other than zero it has.
        entropy: of such a weight, in bits for each entry: what the best code that looks at one
            entry at a time would take.
    """

    name: str
    shape: tuple
    dtype: str
    sparsity: float
    encoding: str = "dense"
    values: int | None = None
    entropy: float | None = None


@dataclasses.dataclass
class Constant:
    """A constant of a file, as real values: zero is exactly 0.0.

    `codes` are those of a `.tflite` constant in 8 bits, less its zero point.
    """

    values: np.ndarray
    dtype: str
    encoding: str = "dense"
    name: str = ""
    codes: np.ndarray | None = None


def stored_weights(constants, kernels, others=()):
    """Find the weights of a model among a file's constants.

    Args:
        constants: from `tflite_constants` or `onnx_constants`.
        kernels: list of (name, array): the weights to look for.
        others: list of (name, array): the model's other variables, which a constant may be.

    Returns:
        A list of `StoredWeight`s in the order of `kernels`. A weight may be stored twice.
    """
    order = {name: index for index, (name, _) in enumerate(kernels)}
    find = _Finder([*kernels, *others])
    result = []
    for constant in constants:
        values = constant.values
        name = find(values)
        if name in order:
            result.append(
                StoredWeight(
                    name=name,
                    shape=tuple(int(size) for size in values.shape),
                    dtype=constant.dtype,
                    sparsity=1 - np.count_nonzero(values) / values.size,
                    encoding=constant.encoding,
                    **_alphabet(constant.codes),
                )
            )
    return sorted(result, key=lambda weight: order[weight.name])


def _alphabet(codes):
    """Count the different codes of a weight in 8 bits, and their entropy."""
    if codes is None:
        return {}
    found, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0
    return {"values": int(np.count_nonzero(found)), "entropy": entropy}


class _Finder:
    """Finds the variable that a constant was made from.

    Converters rename weights, reorder their axes, round them, and fold a BatchNormalization into
    them, which scales each channel. What they leave alike, up to the scales of channels, is the
    magnitudes; a sample of those is compared.

    Args:
        variables: list of (name, array).
    """

    def __init__(self, variables):
        self._by_size = {}
        for name, array in variables:
            shapes = self._by_size.setdefault(array.size, {})
            shapes.setdefault(array.shape, []).append((name, array))
        self._rows = {}  # (shape, axis) -> a row for each variable of that shape

    def __call__(self, values):
        """Return the variable's name, or None."""
        best, best_likeness = None, _ALIKE
        for shape, variables in self._by_size.get(values.size, {}).items():
            for axis, axes in itertools.product(_scaled_axes(shape), axis_orders(len(shape))):
                stored = values.reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
                likeness = self._rows_for(shape, axis) @ _sample(stored, axis)
                if likeness.max() > best_likeness:
                    best, best_likeness = variables[likeness.argmax()][0], likeness.max()
                if best_likeness > 0.999:
                    return best
        return best or self._reordered(values)

    def _rows_for(self, shape, axis):
        if (shape, axis) not in self._rows:
            variables = self._by_size[math.prod(shape)][shape]
            self._rows[shape, axis] = np.stack([_sample(array, axis) for _, array in variables])
        return self._rows[shape, axis]

    def _reordered(self, values):
        """Recognize recurrent kernels in ONNX files, whose gates stand in another order."""
        ordered = np.sort(values, axis=None)
        largest = max(-ordered[0], ordered[-1])
        distances = {
            name: np.abs(np.sort(array, axis=None) - ordered).max()
            for variables in self._by_size.get(values.size, {}).values()
            for name, array in variables
        }
        best = min(distances, key=distances.get, default=None)
        return best if best and distances[best] < _ROUNDED * largest else None


def _scaled_axes(shape):
    """Axes of a Keras weight along which its channels may have been scaled; None for none."""
    axes = {1: [], 2: [-1]}.get(len(shape), [-1, -2])
    return [None] + [axis for axis in axes if shape[axis] < math.prod(shape)]


@functools.lru_cache(maxsize=1024)
def _positions(shape):
    size = math.prod(shape)
    return np.unravel_index(np.unique(np.linspace(0, size - 1, _SAMPLED).astype(int)), shape)


def _sample(array, axis):
    """Sample magnitudes, relative to their channel's along `axis`, as a vector of length 1."""
    positions = _positions(array.shape)
    sampled = np.abs(array[positions], dtype="float32")
    if axis is not None:
        others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        scales = np.abs(array).mean(others, dtype="float32")
        sampled /= np.where(scales > 0, scales, 1)[positions[axis]]
    return sampled / (np.linalg.norm(sampled) or 1)


def axis_orders(rank):
    """Orders of a Keras weight's axes that converters choose."""
    if rank < 4:
        return list(itertools.permutations(range(rank)))
    space = tuple(range(rank - 2))
    a, b = rank - 2, rank - 1
    return [(*space, a, b), (b, *space, a), (b, a, *space), (a, *space, b), (a, b, *space)]


def tflite_constants(data):
    """Return the constants of rank 2 or more in the TFLite file with the bytes `data`.

    Raises:
        ValueError: a sparse weight is read by an operator that cannot.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data)
    constants = []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            dtype = _TFLITE_DTYPES.get(tensor.Type())
            if dtype and tensor.ShapeLength() > 1 and buffer.DataLength():
                values = buffer.DataAsNumpy().view(dtype)
                constants.append(_tflite_constant(tensor, values, dtype))
    return [constant for constant in constants if constant is not None]


def _tflite_constant(tensor, values, dtype):
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    encoding = "dense"
    if tensor.Sparsity() is not None:
        values, encoding = _densify(tensor.Sparsity(), values, shape), "sparse"
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
    return Constant(values, dtype, encoding, codes=codes if dtype == "int8" else None)


def _densify(sparsity, values, shape):
    """Undo TFLite's sparse encoding (the TACO format of tensorflow/lite/schema/schema.fbs)."""
    levels = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    coordinates = np.zeros((1, 0), "int64")
    for level in levels:
        if level.Format() == 0:  # dense: every entry so far branches into all of the axis
            size = level.DenseSize()
            axis = np.tile(np.arange(size), len(coordinates))
            counts = np.full(len(coordinates), size)
        else:  # compressed: segments say how many entries follow, indices where they stand
            counts = np.diff(_vector(level.ArraySegments(), level.ArraySegmentsType()))
            axis = _vector(level.ArrayIndices(), level.ArrayIndicesType())
        coordinates = np.column_stack([np.repeat(coordinates, counts, axis=0), axis])
    order = sparsity.TraversalOrderAsNumpy()
    by_axis = np.empty_like(coordinates)
    by_axis[:, order] = coordinates
    rank = len(shape)
    for position in range(sparsity.BlockMapLength()):
        axis, inner = sparsity.BlockMap(position), rank + position
        size = levels[list(order).index(inner)].DenseSize()
        by_axis[:, axis] = by_axis[:, axis] * size + by_axis[:, inner]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(by_axis[:, :rank].T)] = values[: len(by_axis)]
    return dense


def _vector(table, kind):
    return _raw(table, kind).astype("int64")


def _raw(table, kind):
    """Read one of the three integer vectors of TFLite's `SparseIndexVector` union."""
    from ai_edge_litert import schema_py_generated as schema

    cls = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}[kind]
    vector = cls()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()


class TensorUse(NamedTuple):
    """A tensor as an operator of a TFLite file sees it."""

    dtype: str | int
    sparse: bool


def tflite_operators(data):
    """Return the name of each operator of a TFLite file, and its inputs and outputs."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(data)
    result = []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            indices = integers(operator.InputsAsNumpy()) + integers(operator.OutputsAsNumpy())
            tensors = [graph.Tensors(index) for index in indices if index >= 0]
            uses = [
                TensorUse(_TFLITE_DTYPES.get(t.Type(), t.Type()), t.Sparsity() is not None)
                for t in tensors
            ]
            result.append((names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())], uses))
    return result


def integers(vector):
    """Return a flatbuffers vector, which is 0 where it is missing, as a list."""
    return [] if isinstance(vector, int) else vector.tolist()


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
    dtype = _TFLITE_DTYPES.get(tensor.Type())
    if not dtype:
        return 0, size
    values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(dtype)
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


def tflite_weights(data):
    """Yield what `tflite_zeros` says of each weight of rank 2 or more of a TFLite file.

    Raises:
        ValueError: the file's buffers overlap, so that few bytes would be many weights.
    """
    from ai_edge_litert import schema_py_generated as schema

    model, left = schema.Model.GetRootAs(data), 4 * len(data)
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            length = model.Buffers(tensor.Buffer()).DataLength()
            if tensor.ShapeLength() < 2 or not length or not _is_weight(tensor):
                continue
            left -= length
            if left < 0:
                raise ValueError("its buffers overlap")
            yield tflite_zeros(model, tensor)


def _is_weight(tensor):
    """Whether a tensor has real values; other integers are indices or shapes."""
    dtype, quantization = _TFLITE_DTYPES.get(tensor.Type(), ""), tensor.Quantization()
    return "float" in dtype or bool(dtype and quantization and quantization.ScaleLength())


def _sparse_tensors(model):
    """Yield (index, tensor, its stored values) of each sparse tensor of the first subgraph."""
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        dtype = _TFLITE_DTYPES.get(tensor.Type())
        if tensor.Sparsity() is not None and dtype:
            yield index, tensor, model.Buffers(tensor.Buffer()).DataAsNumpy().view(dtype)


def tflite_blocks(data):
    """Return (index of the tensor, share of its entries stored) of weights in 1x4 blocks."""
    from ai_edge_litert import schema_py_generated as schema

    return [
        (index, values.size / math.prod(integers(tensor.ShapeAsNumpy())))
        for index, tensor, values in _sparse_tensors(schema.Model.GetRootAs(data))
        if tensor.Sparsity().BlockMapLength()
    ]


def tflite_dense(model, tensor):
    """Return the dense values of a sparse tensor, as stored (integers: not dequantized)."""
    values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(_TFLITE_DTYPES[tensor.Type()])
    return _densify(tensor.Sparsity(), values, tuple(integers(tensor.ShapeAsNumpy())))


def tflite_sparse_bytes(data):
    """Return how many bytes the sparse weights of a TFLite file take, and would take dense."""
    from ai_edge_litert import schema_py_generated as schema

    sparse = dense = 0
    for _, tensor, values in _sparse_tensors(schema.Model.GetRootAs(data)):
        sparse += values.nbytes
        dense += math.prod(integers(tensor.ShapeAsNumpy())) * values.itemsize
        levels = tensor.Sparsity()
        for level in (levels.DimMetadata(i) for i in range(levels.DimMetadataLength())):
            if level.Format():
                sparse += _raw(level.ArraySegments(), level.ArraySegmentsType()).nbytes
                sparse += _raw(level.ArrayIndices(), level.ArrayIndicesType()).nbytes
    return sparse, dense
