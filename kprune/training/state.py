"""What an optimizer keeps of weights, such as their averages and moments, masked as they are."""

import keras

from kprune._keras import backend, optimizers


def chain(optimizer):
    """Yield an optimizer, and those that it wraps in their turn, as loss scaling does."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def loss_scale(optimizer):
    """What the gradients that reach an optimizer are multiplied by, a float or scalar tensor."""
    scale = 1.0
    for one in chain(optimizer):
        if isinstance(one, keras.optimizers.LossScaleOptimizer):
            scale = scale * backend.read(one.dynamic_scale)
    return scale


def mask_averages(optimizer, variables, masks):
    """So that weights swapped or overwritten with their averages are sparse, too."""
    for one in chain(optimizer):
        if one.use_ema:
            found = optimizers.moving_averages(one, variables)
            pairs = [(a, m) for a, m in zip(found, masks) if a is not None]
            backend.assign_masked([a for a, _ in pairs], [m for _, m in pairs])


def mask_slots(optimizer, variables, masks):
    """So that weights that come back begin anew."""
    for one in chain(optimizer):
        for variable, mask in zip(variables, masks):
            found = optimizers.slots(one, variable)
            backend.assign_masked(found, [mask] * len(found))
