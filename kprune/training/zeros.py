"""What is zero in a model already, and who keeps it so."""

import dataclasses

from keras import ops

from kprune._keras import backend
from kprune.graphs.weights import count_zeros, weights_of
from kprune.pruning.groups import Group, Setting
from kprune.training.at_risk import ZEROS, is_watched
from kprune.training.optimizer import PruningOptimizer
from kprune.training.optimizers import optimizers_in
from kprune.training.requests import requests

# What is zero stays so, whatever made it zero.
_HELD = Setting()
# Weights with a smaller share of zeros are dense.
_SAME = 1e-3


def pruning_optimizers(model):
    """Return the `PruningOptimizer`s that a model holds."""
    return [one for one in optimizers_in(model) if isinstance(one, PruningOptimizer)]


def pruned_groups(model):
    """Return the `Group`s of kernels that the optimizers of a model prune or hold.

    Weights that several optimizers have masks of are there once.
    """
    groups, seen = [], set()
    for optimizer in pruning_optimizers(model):
        for group in optimizer.groups:
            own = {id(weight.variable) for weight in group.weights}
            if own - seen and any(weight.is_kernel for weight in group.weights):
                groups.append(group)
            seen |= own
    return groups


def sparse_variables(model):
    """Return the variables that were asked to be sparse, or whose zeros are held or at risk.

    Args:
        model: a model, a layer, or a list of layers.
    """
    parts = model if isinstance(model, list | tuple) else [model]
    groups = [request.group for request in requests(model)]
    groups += [g for part in parts for one in pruning_optimizers(part) for g in one.groups]
    found = [weight.variable for group in groups for weight in group.weights]
    found += [v for part in parts for v in part.variables if is_watched(v, ZEROS)]
    return list({id(variable): variable for variable in found}.values())


def held_share(group):
    """Return the share of a group's weights, or channels, that is zero now and would be held.

    0.0 where it cannot be known, while TensorFlow traces a step.
    """
    if not backend.is_concrete():
        return 0.0
    if group.unit == "channels":
        pruned, total = group.count()
        return pruned / total if pruned < total else 0.0
    zeros = sum(int(backend.count_true(ops.logical_not(mask))) for mask in group.held())
    return zeros / sum(weight.size for weight in group.weights)


def is_at(group, sparsity):
    """Return whether a group's zeros are those that it has at a sparsity."""
    if not sparsity:
        return held_share(group) < _SAME
    return backend.is_concrete() and group.fits(sparsity)


def zero_groups(model, variables, besides):
    """Return `Group`s that hold what is zero in a model: in its kernels, and the rest.

    The rest are the biases and scales of channels that were pruned.

    Args:
        model: a `keras.Model`.
        variables: the variables that are trained, a list.
        besides: the `Group`s whose weights are left to them.
    """
    if not backend.is_concrete():
        return []  # They are made in the step that is traced, and nobody has set zeros in them.
    known = {id(variable) for variable in variables}
    known -= {id(weight.variable) for group in besides for weight in group.weights}
    found = [
        weight
        for weight in weights_of(model)
        if id(weight.variable) in known and 0 < count_zeros([weight]) < weight.size
    ]
    kernels = tuple(weight for weight in found if weight.is_kernel)
    others = tuple(weight for weight in found if not weight.is_kernel)
    return [Group(_HELD, members) for members in (kernels, others) if members]


def carried(before, groups, same_fit):
    """Return what new `Group`s don't name of those before, as it goes on.

    Args:
        before: the `Group`s that an optimizer had so far.
        groups: the new ones.
        same_fit: whether another callback of the same `fit` asked for the old ones, which then
            keep their schedules; else what is zero stays zero.
    """
    taken = {id(weight.variable) for group in groups for weight in group.weights}
    rest = []
    for group in before:
        own = tuple(weight for weight in group.weights if id(weight.variable) not in taken)
        whole = len(own) == len(group.weights)
        if not own:
            continue
        if same_fit and not whole and group.unit == "channels":
            raise ValueError(
                "Two callbacks of this `fit` prune the same channels: say all in one, as "
                f"kprune.Pruning(layers={{...}}). Received: {[w.name for w in own]} in both"
            )
        if same_fit:
            rest.append(dataclasses.replace(group, weights=own))
        elif whole:
            rest.append(dataclasses.replace(group, setting=_HELD))
        else:
            rest.append(Group(_HELD, own))
    return rest
