"""What is zero in a model already, and who keeps it so."""

from kprune.training.at_risk import ZEROS, is_watched
from kprune.training.optimizers import optimizers_in
from kprune.training.pruning_optimizer import PruningOptimizer
from kprune.training.requests import requests


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
