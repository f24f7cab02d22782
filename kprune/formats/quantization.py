"""What cannot be quantized, in either format: features of very different ranges in one tensor.

A tensor of integers has one scale, for the widest of its features.
A model that normalizes its inputs itself (Normalization, or a BatchNormalization in front) takes
such features in one tensor. In 8 bits the narrow ones would all be the same number before they
are normalized, so that part of the model stays in float32, as the file's inputs do. Where
these are integers themselves there is no such way out: features of about one range are normalized
in integers, and for others there is an error.
"""

import dataclasses
import math

import numpy as np

# A feature needs at least so many different numbers to be one.
_LEVELS = 8
# With fewer, rounding is felt. Trained classifiers of 8 features of different ranges, all telling,
# were off by 0.03 (root mean square) with 52 levels, 0.06 with 26, 0.13 with 13; with 6 they lost
# three points of accuracy.
_FEW_LEVELS = 32
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


def too_different(signature, arrays, quantize, io="float32"):
    """Say which inputs have features that integers cannot hold in one tensor; None for none.

    Args:
        signature: the model's `Signature`.
        arrays: the calibration data, one array for each input, features along the last axis.
        quantize: how the file is quantized.
        io: the dtype of its inputs.
    """
    ranges = [each for each in _ranges(signature, arrays) if each.levels(quantize) < _LEVELS]
    if not ranges:
        return None
    names = ", ".join(map(str, ranges))
    if io == "float32":
        return (
            f"The features of {names} have such different ranges that {quantize} cannot hold them "
            "in one tensor, which has one scale: normalize the data before it comes to the model, "
            "with the same Normalization layer outside of it, or use quantize='dynamic' or "
            "'float16'."
        )
    return (
        f"The features of {names} have such different ranges that one {io} input, which has one "
        "scale, cannot hold them: normalize the data before it comes to the model, with the same "
        "Normalization layer outside of it; or give features of different ranges inputs of their "
        "own, each of which has its own scale; or use io='float32'."
    )


def few_levels(signature, arrays, quantize):
    """Say of each input how many levels its narrowest feature has, where those are few."""
    return [
        f"the narrowest feature of {each} has {each.levels(quantize):.0f} of the "
        f"{_ALL_LEVELS[quantize]} values of an integer input: its rounding may cost accuracy"
        for each in _ranges(signature, arrays)
        if each.levels(quantize) < _FEW_LEVELS
    ]


@dataclasses.dataclass
class _Range:
    """How wide an input's narrowest feature is, and all of them together."""

    name: str
    narrow: float
    whole: float

    def levels(self, quantize):
        """How many different numbers the narrow one can be."""
        return self.narrow / self.whole * _ALL_LEVELS.get(quantize, math.inf)

    def __str__(self):
        return f"'{self.name}' (from {self.narrow:.3g} to {self.whole:.3g})"


def _ranges(signature, arrays):
    """The `_Range` of each input that has several features."""
    found = []
    for spec, array in zip(signature.flat, arrays):
        if "float" not in spec.dtype or array.ndim < 2 or array.shape[-1] < 2:
            continue
        rows = array.reshape(-1, array.shape[-1])
        spans = np.ptp(rows, axis=0)
        whole = max(rows.max(), 0) - min(rows.min(), 0)
        spans = spans[spans > 0]
        if spans.size:
            found.append(_Range(spec.name, spans.min(), whole))
    return found
