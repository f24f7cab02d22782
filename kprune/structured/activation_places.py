"""Where the activations of channels are seen: what the layers that take them in are given."""

import dataclasses

import keras
import numpy as np

from kprune._keras.graph import operation_class
from kprune.graphs.walk import graph_of, walk

_ACTIVATIONS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    *map(operation_class, ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu")),
    *map(operation_class, ("Sigmoid", "HardSigmoid", "HardSilu", "Tanh")),
)
# What moves numbers, averages or takes some out, channel by channel. Of averages fewer are zero
# than of what is averaged, and with padding more are.
_MOVES = (
    keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D,
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D,
    keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D, keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D,
    keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D,
    keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector,
    keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout,
    keras.layers.GaussianNoise, keras.layers.ActivityRegularization, keras.layers.Identity,
    *map(operation_class, ("MaxPool", "AveragePool", "Mean", "Pad", "Reshape", "Transpose")),
    *map(operation_class, ("Squeeze", "ExpandDims")),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where to look for what a tensor holds: at another one before it, perhaps.

    Attributes:
        tensor: the KerasTensor to look at.
        activated: whether an activation function made it.
    """

    tensor: keras.KerasTensor
    activated: bool = False


def places_of(graph, groups):
    """Return, for each group, where its activations are seen.

    That is what each layer that multiplies them with weights is given; or what was before it was
    pooled, padded, reshaped or dropped, and before a batch normalization that follows the
    activation function instead of preceding it.

    Args:
        graph: a `ChannelGraph`.
        groups: list of its `ChannelGroup`s.

    Returns:
        List of lists of `(tensor, index)`: a KerasTensor of the model, or of one inside it, and
        for each position of its axis of channels the channel of the group, -1 for those of
        others.
    """
    found = [{} for _ in groups]
    taken = _taken(groups)

    def step(node, places):
        for number in taken.get(id(node.operation), ()):
            for tensor, place in zip(node.arguments.keras_tensors, places):
                for one in (place.tensor, tensor):
                    index = _index(graph, one, groups[number].roots)
                    if index is not None:
                        found[number][id(one)] = one, index
                        break
        return _places_after(node, places)

    def inside(node, places):
        opening = graph.openings.get(id(node))
        return None if opening is None else opening.graph

    inputs = [_Place(tensor) for tensor in graph_of(graph.model).inputs]
    walk(graph.model, inputs, step, inside=inside)
    return [list(places.values()) for places in found]


def _taken(groups):
    """From a layer's id to the numbers of the groups that it multiplies with weights."""
    taken = {}
    for number, group in enumerate(groups):
        for slot in group.slots:
            if slot.use.applications and slot.use.variable is not None and not slot.makes:
                taken.setdefault(id(slot.layer), {})[number] = None
    return taken


def _index(graph, tensor, roots):
    """The channel at each position of a tensor; None unless all of the roots are there."""
    known = graph.tensors.get(id(tensor))
    if known is None or known.axis is None:
        return None
    labels = graph.labels.find(known.labels)
    if not np.isin(roots, labels).all():
        return None
    index = np.minimum(np.searchsorted(roots, labels), len(roots) - 1)
    return np.where(roots[index] == labels, index, -1)


def _places_after(node, places):
    """Where to look for the outputs of a node."""
    operation, first = node.operation, places[0] if places else None
    moves = isinstance(operation, _MOVES)
    if isinstance(operation, keras.layers.BatchNormalization):
        moves = first.activated
    if moves and len(node.outputs) == 1:
        return [first]
    function = getattr(operation, "activation", None)
    is_linear = function in (None, keras.activations.linear)
    activated = isinstance(operation, _ACTIVATIONS) or not is_linear
    return [_Place(tensor, activated) for tensor in node.outputs]
