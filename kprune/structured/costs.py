"""What channels cost: weights, and FLOPs as they are really computed."""

import numpy as np

from kprune._keras.layers import flatten_layers
from kprune.graphs.flops import operation_flops


def calibrate(graph):
    """Have the layers of a graph cost what is counted when its model runs; return the total.

    Rules say how often a weight is multiplied for one example of their input, which may be
    one of many that another layer made of the model's, as windows of an image.

    Args:
        graph: a `ChannelGraph`; its `Use`s change.

    Returns:
        Int, the FLOPs of the whole model on one example.

    Raises:
        ValueError: the model cannot be run symbolically.
    """
    counted = operation_flops(graph.model, graph.input_shape)
    for record in graph.layers.values():
        found = sum(counted.get(id(part), 0) for part in flatten_layers(record.layer))
        uses = [use for use in record.uses.values() if use.applications]
        if not uses:  # A rule that does not say; what it calls a matrix is multiplied with.
            uses = [use for use in record.uses.values() if len(use.axes) > 1]
            for use in uses:
                use.applications = 1
        said = sum(2 * use.size * use.applications for use in uses)
        if found != said:
            for use in uses:
                use.applications *= found / said
    return sum(counted.values())


class Cost:
    """Weights and FLOPs of the model as a function of how many channels each group keeps.

    Only what has channels counts: a constant share of the model is not in it.

    Args:
        groups: list of all `ChannelGroup`s of a model.
    """

    def __init__(self, groups):
        uses, rows = {}, []
        for g, group in enumerate(groups):
            for slot in group.slots:
                position, _ = uses.setdefault(id(slot.use), (len(uses), slot.use))
                share = np.sum(slot.index >= 0) / group.channels / len(slot.index)
                rows.append((position, slot.axis, g, share))
        found = [use for _, use in uses.values()]
        self._sizes = np.array([use.size for use in found], float)
        self._multiplied = np.array([2 * use.applications for use in found], float)
        self._stored = np.array([use.variable is not None for use in found], float)
        self._channels = np.array([group.channels for group in groups])
        axes = {key: i for i, key in enumerate(dict.fromkeys(row[:2] for row in rows))}
        self._use = np.array([use for use, _ in axes], int)
        self._shares = np.zeros((len(axes), len(groups)))
        for use, axis, g, share in rows:
            self._shares[axes[use, axis], g] = share

    def __call__(self, kept):
        """Return `(weights, flops)` with `kept[i]` channels in the i-th group."""
        left = self._sizes.copy()
        np.multiply.at(left, self._use, 1 - self._shares @ (self._channels - kept))
        return left @ self._stored, left @ self._multiplied
