"""Channels removed group by group, each to a share of its own."""

import keras
import numpy as np

from kprune.graphs.functional import functional_form
from kprune.pruning.criteria import Magnitude
from kprune.structured.budget import Sizes
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups, keep_groups
from kprune.structured.importance import channel_scores
from kprune.structured.surgery import cut


def free_groups(model, round_to=8):
    """Return the names of the groups of `channel_groups(model)` that can lose channels.

    Raises:
        ValueError: a subclassed model that cannot be traced.
    """
    _, groups = _groups(model)
    return [name for name, group in groups.items() if len(Sizes(group, round_to, None).allowed) > 1]


def cut_to_widths(model, shares, round_to=8):
    """Return a smaller model: in each group the channels of least magnitude removed.

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        shares: {name of a group: the share of its channels that stays}, to the nearest multiple of
            `round_to`, an eighth of them at the least; other groups keep all.
        round_to: int.

    Returns:
        A `keras.Model`, not compiled; the model itself where nothing leaves.
    """
    graph, groups = _groups(model)
    gone = []
    for name, share in shares.items():
        group = groups[name]
        kept = Sizes(group, round_to, None).nearest(share * group.channels)
        if kept < group.channels:
            scores = keras.ops.convert_to_numpy(channel_scores(group, Magnitude(), _magnitudes))
            gone.append(group.roots[np.argsort(scores, kind="stable")[: group.channels - kept]])
    return cut(graph, np.concatenate(gone)) if gone else model


def _groups(model):
    """The graph of a model, and its groups by name, the first of each name."""
    graph = ChannelGraph(functional_form(model))
    groups = find_groups(graph)
    keep_groups(groups, heads=True, hidden=False)
    named = {}
    for group in groups:
        if not group.frozen:
            named.setdefault(group.name, group)
    return graph, named


def _magnitudes(variable):
    return Magnitude()(keras.ops.convert_to_tensor(variable))
