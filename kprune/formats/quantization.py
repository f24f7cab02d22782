"""What cannot be quantized, in either format: features of very different ranges in one tensor.

A tensor of integers has one scale, for the widest of its features.
A model that normalizes its inputs itself (Normalization, or a BatchNormalization in front) takes
such features in one tensor. In 8 bits the narrow ones would all be the same number before they
are normalized, so that part of the model stays in float32, as the file's inputs do.
"""

import dataclasses

import numpy as np

# A feature needs at least so many different numbers to be one.
_LEVELS = 8
_ALL_LEVELS = {"int8": 2**8, "int16x8": 2**16}


@dataclasses.dataclass
class Node:
    """One operator of a graph, of either format.

    Attributes:
        name: what the quantizer knows it by.
        scales: it adds or multiplies by a constant.
        moves: it only moves or casts numbers.
        by_feature: that constant has several values.
        inputs, outputs: the tensors that are not constants.
    """

    name: str
    scales: bool
    moves: bool
    by_feature: bool
    inputs: list
    outputs: list


def normalizing(nodes, inputs):
    """Return the names of the nodes that normalize the graph's inputs feature by feature.

    Args:
        nodes: the graph's `Node`s, in an order in which they can run.
        inputs: its input tensors.
    """
    front, before = [], set(inputs)
    for node in nodes:
        if (node.scales or node.moves) and node.inputs and before.issuperset(node.inputs):
            front.append(node)
            before.update(node.outputs)
    kept, needed = [], set()
    for node in reversed(front):
        if (node.scales and node.by_feature) or needed.intersection(node.outputs):
            kept.append(node.name)
            needed.update(node.inputs)
    return kept


def too_different(signature, arrays, quantize):
    """Say which inputs have features that integers cannot hold in one tensor; None for none.

    Args:
        signature: the model's `Signature`.
        arrays: the calibration data, one array for each input, features along the last axis.
        quantize: how the file is quantized.
    """
    if quantize not in _ALL_LEVELS:
        return None
    found = []
    for spec, array in zip(signature.flat, arrays):
        if "float" not in spec.dtype or array.ndim < 2 or array.shape[-1] < 2:
            continue
        rows = array.reshape(-1, array.shape[-1])
        spans = np.ptp(rows, axis=0)
        whole = max(rows.max(), 0) - min(rows.min(), 0)
        spans = spans[spans > 0]
        if spans.size and spans.min() < whole * _LEVELS / _ALL_LEVELS[quantize]:
            found.append(f"'{spec.name}' (from {spans.min():.3g} to {whole:.3g})")
    if not found:
        return None
    return (
        f"The features of {', '.join(found)} have such different ranges that {quantize} cannot "
        "hold them in one tensor, which has one scale: normalize the data before it comes to the "
        "model, with the same Normalization layer outside of it, or use quantize='dynamic' or "
        "'float16'."
    )
