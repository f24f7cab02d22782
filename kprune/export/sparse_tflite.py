"""Sparse `.tflite` files: what is stored sparse, in which encoding, and for which targets."""

import dataclasses

import numpy as np

from kprune._system.errors import ExportError
from kprune.export import transport
from kprune.formats import stored
from kprune.formats.tflite import padding
from kprune.formats.tflite.unpack import packed, unpack
from kprune.graphs.weights import sparsity_of, weights_of
from kprune.targets import from_tflite, xnnpack
from kprune.targets.check import check_graph
from kprune.targets.graph import BLOCK, SPARSE_FROM
from kprune.targets.rewrites import rewrite
from kprune.targets.target import TARGETS, get_target

AUTO = "auto"
INTEGERS = ("dynamic", "int8", "int16x8")


@dataclasses.dataclass
class Made:
    """A converted file.

    Attributes:
        blob: its bytes.
        model: the Keras model it was converted from: the one asked for, or a rewritten copy.
        rewrites: what was rewritten in that copy, as strings.
        notes: sentences for the report.
        targets: {target name: estimated gain over dense} where weights are stored sparse.
    """

    blob: bytes
    model: object
    rewrites: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    targets: dict = dataclasses.field(default_factory=dict)


def make(model, request, sparse, target=None):
    """Convert a model to a `.tflite` file whose zeros take no more space than they have to.

    Args:
        model: a built Keras model.
        request: a `Request`; its `sparse` is decided here.
        sparse: True, False or `"auto"`.
        target: the name of the target it is for; None for any.

    Returns:
        A `Made`.

    Raises:
        ExportError: with `sparse=True`, where the file would not run right.
    """
    dense = dataclasses.replace(request, sparse=False)
    if sparse is False or (sparse == AUTO and not _has_zeros(model)):
        return Made(transport.convert(model, dense), model)
    if request.quantize in INTEGERS:
        note = (
            "stored dense: LiteRT's default interpreter does not load sparse integer weights; the "
            "zeros are all kept, and compress"
        )
        return Made(transport.convert(model, dense), model, notes=[note])
    made = _sparse(model, dataclasses.replace(request, sparse=True), target)
    problem = _problem(made.blob, target)
    if problem is None:
        made.targets = _gains(made.blob, target)
        return made
    if sparse is True:
        raise ExportError(
            f"Stored sparse, the file would not be fit for use: {problem}. Use sparse='auto', "
            "which stores it dense; or target=, if it is for another target only."
        )
    return Made(transport.convert(model, dense), model, notes=[f"stored dense: {problem}"])


def _has_zeros(model):
    """Whether some weight has enough zeros to be stored sparse."""
    found = [weight for weight in weights_of(model) if len(weight.variable.shape) > 1]
    return any(sparsity_of([weight]) >= SPARSE_FROM for weight in found)


def _sparse(model, request, target):
    changed, rewrites = rewrite(model, target)
    blob = transport.convert(changed, request)
    made = Made(blob, changed, [str(each) for each in rewrites])
    cut = _cut_blocks(blob)
    if cut:
        whole = transport.convert(changed, dataclasses.replace(request, sparse=False))
        made.blob = without_blocks(blob, cut, whole)
    slower = _slower_blocks(made.blob, request.quantize, target)
    if slower:
        made.blob = without_blocks(made.blob, slower)
    if any(each.clusters for each in targets_for(target)):
        made.blob = _with_explicit_padding(made.blob)
    return made


def _with_explicit_padding(blob):
    """Write `same` padding as a PAD where that brings more weights on the sparse path."""
    other = padding.explicit(blob)
    if other is None:
        return blob
    before, after = (xnnpack.clusters(from_tflite.read(each)) for each in (blob, other))
    broken = any(cluster.changed and cluster.broken for cluster in after)
    return blob if broken or _changed(after) <= _changed(before) else other


def _changed(found):
    """How many weights run in sparse kernels, and rightly."""
    return sum(one.weights for one in found if one.changed and not one.broken)


def targets_for(target):
    """The targets a `.tflite` file is for: the one named, or all that run such files."""
    if target is not None:
        return [get_target(target)]
    return [each for each in TARGETS.values() if each.format == "tflite"]


def _cut_blocks(blob):
    """The weights in blocks that lost their last columns, as indices of tensors.

    The converter stores whole blocks only, also where inputs do not divide into them.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(blob).Subgraphs(0)
    blocks = [index for index, _ in stored.tflite_blocks(blob)]
    return [index for index in blocks if graph.Tensors(index).ShapeAsNumpy()[-1] % BLOCK]


def _slower_blocks(blob, quantize, target):
    """The weights in blocks that no target is faster with, as indices of tensors."""
    from_share = min(each.blocks_from for each in targets_for(target))
    return [
        index
        for index, density in stored.tflite_blocks(blob)
        # The converter hands float16 blocks to an operator that reads them as if dense.
        if quantize == "float16" or 1 - density <= from_share
    ]


def _problem(blob, target):
    """Why a sparse file is worse than a dense one; None if it is not."""
    graph = from_tflite.read(blob)
    names = [each.name for each in targets_for(target) if each.clusters]
    for cluster in xnnpack.clusters(graph) if names else ():
        if cluster.changed and cluster.broken:
            op, effect, why, _ = cluster.broken[0]
            return f"on {' and '.join(names)} it {effect}: '{op.name}' {why}"
    sparse, dense = stored.tflite_sparse_bytes(blob)
    if sparse and sparse >= dense:
        return f"its sparse weights would take {sparse:,} bytes, and dense ones {dense:,}"
    return None


def _gains(blob, target):
    graph = from_tflite.read(blob)
    if not any(op.weight and op.weight.encoding != "dense" for op in graph.ops):
        return {}
    return {each.name: check_graph("", graph, each).estimated_gain for each in targets_for(target)}


def without_blocks(blob, indices, whole=None):
    """Store weights that are in 1x4 blocks one by one instead, to be made dense at loading.

    Args:
        blob: the bytes of a TFLite file.
        indices: of the tensors in its first subgraph.
        whole: the bytes of the same file stored dense, if they have values that these lack.

    Returns:
        The bytes of the changed file.
    """
    from ai_edge_litert import schema_py_generated as schema

    views = schema.Model.GetRootAs(blob)
    dense = {i: stored.tflite_dense(views, views.Subgraphs(0).Tensors(i)) for i in indices}
    if whole is not None:
        constants = [each.values for each in stored.tflite_constants(whole)]
        dense = {i: _completed(values, constants) for i, values in dense.items()}
    model = schema.ModelT.InitFromPackedBuf(blob)
    graph = model.subgraphs[0]
    for index in indices:
        tensor = graph.tensors[index]
        values, tensor.sparsity = _compressed(schema, dense[index])
        model.buffers[tensor.buffer].data = values.view("uint8")
    unpack(schema, model, indices, schema.BuiltinOperator.DENSIFY)
    return packed(schema, model)


def _completed(cut, constants):
    """Find the matrix that another one is, but for the columns after its last whole block.

    It is taken from the list `constants`, as equal ones are in the same order there.
    """
    columns = cut.shape[1] // BLOCK * BLOCK
    for index, values in enumerate(constants):
        if values.shape == cut.shape and np.array_equal(values[:, :columns], cut[:, :columns]):
            return constants.pop(index)
    raise ExportError(
        f"The converter stored a matrix of shape {cut.shape} in blocks of {BLOCK}, without the "
        "rest of its columns. Use sparse=False."
    )


def _compressed(schema, dense):
    """Return the values and the `SparsityParameters` of a matrix stored row by row."""
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
