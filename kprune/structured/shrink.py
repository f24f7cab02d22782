"""Remove the channels that zeros have emptied, exactly."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from kprune.graphs.functional import functional_form
from kprune.graphs.weights import weights_of
from kprune.pruning import selection
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups, open_groups
from kprune.structured.liveness import inflows
from kprune.structured.surgery import cut

_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def shrink(model: keras.Model, layers: Any = None) -> keras.Model:
    """Return a smaller model that computes the same: without the channels that are empty.

    A channel is empty when nothing takes it in with a weight that is not zero, or when it
    no longer depends on the input: its filter is zero, or the scale of its batch
    normalization. What an empty channel still emits, a bias or beta through the
    activation, moves into the biases of the layers that take it in; where that would not
    be exact, at the border of a padded convolution, the channel stays.

    `kprune.Pruning(0.5, pattern=kprune.Channels())` empties channels during `fit`.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.5, pattern=kprune.Channels())])
    small = kprune.shrink(model)
    ```

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        layers: which layers may lose the channels they make, as in `prune_channels`; all by
            default. Zeros without a pattern, or in blocks, empty a channel by chance; a layer
            in blocks that loses some of its inputs is in blocks no more.

    Returns:
        A plain `keras.Model`, not compiled; the original is as it was.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: no channel is empty, `layers` that matches nothing, or a subclassed model
            that cannot be traced.
    """
    graph = ChannelGraph(functional_form(model))
    groups = find_groups(graph)
    if layers is not None:
        open_groups(groups, model, selection.choose(weights_of(model), layers))
    empty = _Empty(graph, groups)
    gone = empty.channels()
    if not len(gone):
        raise ValueError(
            f"No channel of {model.name!r} is empty, so there is nothing to shrink"
            f"{empty.remarks()}. Empty some with kprune.Pruning(0.5, pattern=kprune.Channels()), "
            "or use kprune.prune_channels(model, flops=0.5)."
        )
    if empty.kept:
        warnings.warn(f"Some empty channels stay{empty.remarks()}.", stacklevel=2)
    return cut(graph, gone, biases=empty.constants(gone))


class _Empty:
    """Finds the channels of a graph that can go without any difference."""

    def __init__(self, graph, groups):
        self._graph = graph
        self._inflows = inflows(graph)
        self._groups = groups
        self._zeros = {}
        self.kept = []  # Why empty channels stay.

    def channels(self):
        """Return the representatives of the channels that can go, as an int array."""
        gone = []
        for group in self._groups:
            if group.frozen:
                continue
            empty = np.flatnonzero(self._empty(group))
            if not len(empty):
                continue
            if group.inexact:
                self.kept.append(f"{len(empty)} of {group.name}: {group.inexact[0]}")
                continue
            if len(empty) == group.channels:
                self.kept.append(f"one of {group.name}: a layer needs one channel")
                empty = empty[1:]
            gone.append(group.roots[empty])
        return np.concatenate(gone) if gone else np.zeros(0, int)

    def remarks(self):
        """Return what was found to stay, as the end of a sentence."""
        return f" ({'; '.join(dict.fromkeys(self.kept))})" if self.kept else ""

    def _empty(self, group):
        """Which channels of a group can go, as a bool array."""
        takers = [slot for slot in group.slots if slot.takes]
        if not takers:
            return np.all([self._zero(slot) for slot in _stored(group)], axis=0)
        return np.all([self._zero(s) | self._constant(group, s) for s in takers], axis=0)

    def _constant(self, group, slot):
        """Which channels a layer is given as something it can absorb, whatever the input."""
        flows = [f for f in self._inflows.get(id(slot.layer), ()) if _places(group, f)[0].any()]
        if not flows:  # The layer's own, inside it: the units of an LSTM.
            own = [s for s in _stored(group) if s.layer is slot.layer and not s.takes]
            if not own or not _emits_zero(slot.layer):
                return np.False_
            return np.all([self._zero(s) for s in own], axis=0)
        varies, emits, uneven = np.zeros((3, group.channels), bool)
        for flow in flows:
            mine, index = _places(group, flow)
            np.logical_or.at(varies, index, flow.varies[mine])
            np.logical_or.at(emits, index, flow.values[mine] != 0)
            np.logical_or.at(uneven, index, np.isnan(flow.values[mine]))
        absorbed = ~emits
        if _takes_constants(slot.layer) and len(flows) == 1:
            absorbed |= ~uneven
        if np.any(~varies & ~absorbed & ~self._zero(slot)):
            self.kept.append(f"{group.name}: emits a constant that {slot.layer.name} cannot absorb")
        return ~varies & absorbed

    def _zero(self, slot):
        """Of which channels all weights in a slot are zero, as a bool array."""
        if id(slot) not in self._zeros:
            value = np.moveaxis(keras.ops.convert_to_numpy(slot.use.variable), slot.axis, 0)
            mine = slot.index >= 0
            nonzero = np.zeros(slot.index.max() + 1, bool)
            filled = np.any(value.reshape(len(value), -1) != 0, axis=1)
            np.logical_or.at(nonzero, slot.index[mine], filled[mine])
            self._zeros[id(slot)] = ~nonzero
        return self._zeros[id(slot)]

    def constants(self, gone):
        """Return what the removed channels emitted, as a dict from layers' ids to biases."""
        biases = {}
        for key, flows in self._inflows.items():
            layer = self._graph.layers[key].layer
            if not _takes_constants(layer) or len(flows) != 1:
                continue
            (flow,) = flows
            removed = np.isin(flow.labels, gone) & ~flow.varies
            if not np.any(flow.values[removed] != 0):
                continue
            kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
            summed = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
            biases[key] = np.nan_to_num(flow.values[removed]) @ summed[removed]
        return biases


def _emits_zero(layer):
    """Whether a unit whose weights are all zero emits zero."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return True
    layer = getattr(layer, "layer", None) or getattr(layer, "forward_layer", layer)
    activation = getattr(layer, "activation", None)
    return activation is not None and float(activation(keras.ops.zeros((1, 1)))[0, 0]) == 0


def _stored(group):
    """The slots of variables, not of products between activations."""
    return [slot for slot in group.slots if slot.use.variable is not None]


def _places(group, flow):
    """Which positions of an inflow are a group's channels, and which channels they are."""
    mine = np.isin(flow.labels, group.roots)
    return mine, np.searchsorted(group.roots, flow.labels[mine])


def _takes_constants(layer):
    """Whether a constant on an input channel is a constant on the outputs."""
    if isinstance(layer, _DENSE):
        return True
    if not isinstance(layer, _CONVOLUTIONS) or layer.groups != 1:
        return False
    return layer.padding == "valid" or math.prod(layer.kernel_size) == 1
