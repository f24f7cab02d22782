"""Weights stored in 1x4 blocks, stored row by row instead: LiteRT makes them dense at loading."""

import numpy as np

from kprune._system.errors import ExportError
from kprune.formats.tflite.constants import tflite_constants
from kprune.formats.tflite.file import packed, parsed
from kprune.formats.tflite.sparsity import BLOCK, by_rows, dense_values
from kprune.formats.tflite.unpack import unpack


def transform(blob, indices, whole=None):
    """Store weights that are in 1x4 blocks one by one instead, to be made dense at loading.

    Args:
        blob: the bytes of a TFLite file.
        indices: of the tensors in its first subgraph.
        whole: the bytes of the same file stored dense, if they have values that these lack.

    Returns:
        The bytes of the changed file; `blob` without `indices`.

    Raises:
        ExportError: `whole` does not have the values that these lack.
    """
    if not indices:
        return blob
    dense = dense_values(blob, indices)
    if whole is not None:
        constants = [each.values for each in tflite_constants(whole)]
        dense = {i: _completed(values, constants) for i, values in dense.items()}
    model = parsed(blob)
    graph = model.subgraphs[0]
    for index in indices:
        tensor = graph.tensors[index]
        values, tensor.sparsity = by_rows(dense[index])
        model.buffers[tensor.buffer].data = values.view("uint8")
    unpack(model, indices, "DENSIFY")
    return packed(model)


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
