"""Attention as people write it: where its heads are split off, and along which axis they are."""

import keras

from kprune._keras.graph import operation_class
from kprune.graphs.walk import graph_of, nodes

_PRODUCTS = ("Matmul", "Einsum", "Dot", "DotProductAttention")
_SPLITS = (keras.layers.Reshape, operation_class("Reshape"))


def multiplied_tensors(model):
    """Return the ids of tensors in a graph that go into a product of two tensors.

    Those are queries, keys and values, if by nothing else than operations without weights.
    """
    found = set()
    for node in reversed(nodes(graph_of(model))):
        operation, tensors = node.operation, node.arguments.keras_tensors
        if graph_of(operation) is not None:
            found |= multiplied_tensors(operation)
            continue
        several = len(set(map(id, tensors))) > 1
        product = type(operation).__name__ in _PRODUCTS and several
        has_weights = isinstance(operation, keras.Layer) and operation.weights
        passes = not has_weights and any(id(tensor) in found for tensor in node.outputs)
        if product or passes:
            found.update(map(id, tensors))
    return found


def axis_of_heads(operation, tensor, output):
    """Return the axis along which a reshape makes heads of channels, below 0, or None.

    A shape that is split has the size of a head last; a 3 before it, if any, counts queries,
    keys and values. Heads that are split again are in groups, which come first.

    Args:
        operation: a `keras.Operation`.
        tensor: the `Tensor` that it is called on.
        output: the `Tensor` that comes out.
    """
    more = len(output.shape) - len(tensor.shape)
    if not isinstance(operation, _SPLITS) or more < 1 or tensor.axis is None:
        return None
    if tensor.axis != -1:  # Heads, in groups that have a key in common.
        return tensor.axis - 1 if more == 1 else None
    if output.shape[-1] == tensor.shape[-1]:
        return None
    made = output.shape[-1 - more :]
    return -3 if len(made) > 2 and made[-2] == 3 and made[-3] != 3 else -2
