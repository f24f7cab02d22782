"""The last word of a `fit`: what was reached of what was asked."""

import warnings

from kprune._keras import backend
from kprune.graphs.weights import sparsity_of
from kprune.pruning.groups import pruned_share
from kprune.training import zeros
from kprune.training.at_risk import watch_zeros
from kprune.training.requests import requests
from kprune.training.wrappers.pruning_wrapper import weights_that_stay, wrappers_in


def finish(model, verbose=1, said=()):
    """Print a line on a model's sparsity, and warn of what is less sparse than was asked.

    Args:
        model: the model that was trained.
        verbose: as of `fit`; with 0 nothing is printed.
        said: other sentences to print.
    """
    found = requests(model)
    for request in found:
        if request.missing:
            warnings.warn(
                f"This `fit` ends with less sparsity than was asked: {request}. "
                f"{_why(model, request)}",
                stacklevel=2,
            )
    if verbose:
        for line in [*([_summary(model, found)] if found else []), *said]:
            print(f"kprune: {line}", flush=True)
    if not wrappers_in(model):  # These act in any training.
        watch_zeros(zeros.sparse_variables(model))


def _why(model, request):
    own = {id(weight.variable) for weight in request.group.weights}
    pruning = [
        optimizer
        for optimizer in zeros.pruning_optimizers(model)
        if any(id(w.variable) in own for group in optimizer.groups for w in group.weights)
    ]
    end = request.group.setting.schedule.end_step
    steps = {one.name: backend.to_int(one.iterations) for one in pruning}
    steps |= {
        wrapper.name: backend.to_int(wrapper.pruning_step)
        for wrapper in wrappers_in(model)
        if any(id(variable) in own for variable, _, _ in wrapper.pruning_vars)
    }
    if steps and not any(steps.values()):
        return (
            f"The optimizer {', '.join(steps)} never made a step: what `train_step` uses must be "
            "an attribute of the model, to be found."
        )
    if steps and max(steps.values()) < end:
        return (
            f"It made {max(steps.values())} optimizer steps, and the schedule ends at {end}. Let "
            "callbacks that stop a run wait for it: kprune.after_pruning(keras.callbacks."
            "EarlyStopping(...))."
        )
    return (
        "A callback has put back the weights of an earlier epoch. Let those that pick an epoch "
        "wait for the schedule: kprune.after_pruning(keras.callbacks.EarlyStopping(...))."
    )


def _summary(model, found):
    asked = sorted({f"{request.sparsity:g}" for request in found})
    groups = [request.group for request in found]
    kernels = sum(weight.is_kernel for group in groups for weight in group.weights)
    whole = sparsity_of(weights_that_stay(model))
    text = (
        f"sparsity {pruned_share(groups):.4f} of {kernels} weights "
        f"(asked: {', '.join(asked)}), {whole:.4f} of the whole model"
    )
    floored = [w.name for request in found for w in request.group.floored(request.sparsity)]
    if floored:
        text += f"; one weight is left, as none would be empty, of {', '.join(floored)}"
    return text
