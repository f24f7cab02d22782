"""Sparse `.tflite` files: what is stored sparse, in which encoding, and for which targets."""

import dataclasses

from kprune._system.errors import ExportError
from kprune.export import transport
from kprune.formats.tflite import blocks, padding, sparsity
from kprune.formats.tflite.sparsity import SPARSE_FROM
from kprune.graphs.sizes import sizes_of
from kprune.graphs.weights import sparsity_of, weights_of
from kprune.targets import from_tflite, xnnpack
from kprune.targets.outlook import outlook
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
    """

    blob: bytes
    model: object
    rewrites: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)


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
    if target is not None and not get_target(target).rules:
        note = f"stored dense: {get_target(target).runtime} reads no sparse weights"
        return Made(transport.convert(model, dense), model, notes=[note])
    if request.quantize in INTEGERS:
        note = (
            "stored dense: LiteRT's default interpreter does not load sparse integer weights; the "
            "zeros are all kept, and compress"
        )
        return Made(transport.convert(model, dense), model, notes=[note])
    made = _sparse(model, dataclasses.replace(request, sparse=True), target)
    problem = _problem(made.blob, target)
    if problem is None:
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
    input_shape = sizes_of(request.signature.arguments)
    changed, rewrites = rewrite(model, target, input_shape=input_shape)
    blob = transport.convert(changed, request)
    made = Made(blob, changed, [str(each) for each in rewrites])
    cut = sparsity.cut_off(blob)
    if cut:
        whole = transport.convert(changed, dataclasses.replace(request, sparse=False))
        made.blob = blocks.transform(blob, cut, whole)
    made.blob = blocks.transform(made.blob, _slower_blocks(made.blob, request.quantize, target))
    if any(each.clusters for each in targets_for(target)):
        made.blob = _with_explicit_padding(made.blob)
    return made


def _with_explicit_padding(blob):
    """Write `same` padding as a PAD where that brings more weights on the sparse path."""
    other = padding.transform(blob)
    if other is blob:
        return blob
    before, after = (xnnpack.clusters(from_tflite.read(each)) for each in (blob, other))
    broken = any(cluster.changed and cluster.broken for cluster in after)
    return blob if broken or _changed(after) <= _changed(before) else other


def _changed(found):
    """How many weights run in sparse kernels, and rightly."""
    return sum(one.weights for one in found if one.changed and not one.broken)


def targets_for(target):
    """The targets a `.tflite` file is for: the one named, or those it must always be fit for."""
    if target is not None:
        return [get_target(target)]
    return [each for each in TARGETS.values() if each.format == "tflite" and each.always]


def _slower_blocks(blob, quantize, target):
    """The weights in blocks that no target is faster with, as indices of tensors."""
    shares = [each.blocks_from for each in targets_for(target)]
    from_share = min((share for share in shares if share is not None), default=1.0)
    return [
        index
        for index, density in sparsity.in_blocks(blob).items()
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
    sparse, dense = sparsity.sparse_bytes(blob)
    if sparse and sparse >= dense:
        return f"its sparse weights would take {sparse:,} bytes, and dense ones {dense:,}"
    return None


def outlooks(blob, target, model):
    """Return an `Outlook` for each target that a file is for."""
    graph = from_tflite.read(blob)
    return [outlook(graph, each, model) for each in targets_for(target)]
