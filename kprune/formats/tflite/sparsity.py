"""TFLite's sparse encoding (the TACO format of tensorflow/lite/schema/schema.fbs).

A weight is stored as the values that are not zero, row by row or in 1x4 blocks, and as where they
are. LiteRT has a kernel for dense layers in blocks, and XNNPACK its own for 1x1 convolutions; all
else is made dense when the file is loaded.
"""

import math

import numpy as np

from kprune.formats.tflite.file import DTYPES, integers, stored, view

# TFLite's converter (its dense_to_sparse pass) stores a weight sparse from this share of zeros on,
# and in 1x4 blocks if whole blocks hold more than this share of those zeros.
SPARSE_FROM = 0.3
BLOCKS_FROM = 0.9
BLOCK = 4


def densified(sparsity, values, shape):
    """Undo the sparse encoding.

    Args:
        sparsity: the tensor's `schema.SparsityParameters`.
        values: array [n], what is stored.
        shape: of the dense tensor.

    Returns:
        The dense array.
    """
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
    # The last block of a row reaches beyond a matrix whose columns do not divide into blocks.
    inside = (by_axis[:, :rank] < np.array(shape)).all(1)
    dense[tuple(by_axis[inside, :rank].T)] = values[: len(by_axis)][inside]
    return dense


def by_rows(dense):
    """Encode a matrix row by row.

    Args:
        dense: array [rows, columns].

    Returns:
        (its values that are not zero, their `schema.SparsityParametersT`).
    """
    from ai_edge_litert import schema_py_generated as schema

    rows, columns = np.nonzero(dense)
    segments = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype("int32")
    outer, inner = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    outer.format, outer.denseSize = schema.DimensionType.DENSE, len(dense)
    inner.format, inner.denseSize = schema.DimensionType.SPARSE_CSR, 0
    vector = schema.SparseIndexVector
    inner.arraySegmentsType, inner.arraySegments = vector.Int32Vector, schema.Int32VectorT()
    inner.arraySegments.values = segments
    wide = dense.shape[1] > 2**16
    kinds = {
        "uint8": (vector.Uint8Vector, schema.Uint8VectorT),
        "uint16": (vector.Uint16Vector, schema.Uint16VectorT),
        "int32": (vector.Int32Vector, schema.Int32VectorT),
    }
    kind = "int32" if wide else "uint8" if dense.shape[1] <= 2**8 else "uint16"
    inner.arrayIndicesType, inner.arrayIndices = kinds[kind][0], kinds[kind][1]()
    inner.arrayIndices.values = columns.astype(kind)
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.array([0, 1], "int32")
    sparsity.dimMetadata = [outer, inner]
    return np.ascontiguousarray(dense[rows, columns]), sparsity


def in_blocks(blob):
    """Find the weights stored in 1x4 blocks.

    Returns:
        {index of the tensor in the first subgraph: share of its entries that is stored}.
    """
    return {
        index: values.size / math.prod(integers(tensor.ShapeAsNumpy()))
        for index, tensor, values in _sparse_tensors(view(blob))
        if tensor.Sparsity().BlockMapLength()
    }


def cut_off(blob):
    """Return the indices of the weights in blocks that lost their last columns.

    The converter stores whole blocks only, also where inputs do not divide into them.
    """
    graph = view(blob).Subgraphs(0)
    return [i for i in in_blocks(blob) if graph.Tensors(i).ShapeAsNumpy()[-1] % BLOCK]


def dense_values(blob, indices):
    """Return the dense values of sparse tensors, as stored (integers: not dequantized).

    Args:
        blob: the bytes of a TFLite file.
        indices: of the tensors in its first subgraph.

    Returns:
        {index: array}.
    """
    model, found = view(blob), {}
    for index in indices:
        tensor = model.Subgraphs(0).Tensors(index)
        values = stored(model, tensor)
        shape = tuple(integers(tensor.ShapeAsNumpy()))
        found[index] = densified(tensor.Sparsity(), values, shape)
    return found


def sparse_bytes(blob):
    """Return how many bytes the sparse weights of a TFLite file take, and would take dense."""
    sparse = dense = 0
    for _, tensor, values in _sparse_tensors(view(blob)):
        sparse += values.nbytes
        dense += math.prod(integers(tensor.ShapeAsNumpy())) * values.itemsize
        levels = tensor.Sparsity()
        for level in (levels.DimMetadata(i) for i in range(levels.DimMetadataLength())):
            if level.Format():
                sparse += _raw(level.ArraySegments(), level.ArraySegmentsType()).nbytes
                sparse += _raw(level.ArrayIndices(), level.ArrayIndicesType()).nbytes
    return sparse, dense


def _sparse_tensors(model):
    """Yield (index, tensor, its stored values) of each sparse tensor of the first subgraph."""
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        dtype = DTYPES.get(tensor.Type())
        if tensor.Sparsity() is not None and dtype:
            yield index, tensor, stored(model, tensor)


def _vector(table, kind):
    return _raw(table, kind).astype("int64")


def _raw(table, kind):
    """Read one of the three integer vectors of TFLite's `SparseIndexVector` union."""
    from ai_edge_litert import schema_py_generated as schema

    cls = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}[kind]
    vector = cls()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()
