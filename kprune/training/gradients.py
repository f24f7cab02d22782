"""The gradients of a step: those of masked weights left out, or those of a group's weights."""

from kprune._keras import backend, optimizers


def masked(optimizer, grads, trainable_variables):
    """Return the gradients without those of masked weights.

    Args:
        optimizer: a built `PruningOptimizer`.
        grads: list of tensors, or None for some.
        trainable_variables: list of the variables that they are of.
    """
    pruned = [weight.variable for group in optimizer.groups for weight in group.weights]
    masks = dict(zip(optimizers.variable_keys(optimizer, pruned), optimizer.mask_variables))
    found = map(masks.get, optimizers.variable_keys(optimizer, trainable_variables))
    return [
        gradient if mask is None else backend.mask_gradient(gradient, backend.read(mask))
        for gradient, mask in zip(grads, found)
    ]


def of_group(optimizer, group, grads, trainable_variables):
    """Return the gradients of a group's weights; None for each, where it needs none.

    Args:
        optimizer: a built `PruningOptimizer`.
        group: one of its `Group`s.
        grads: list of tensors, or None for some.
        trainable_variables: list of the variables that they are of.

    Raises:
        ValueError: a weight without one.
    """
    setting = group.setting
    if not setting.needs_gradient:
        return [None] * len(group.weights)
    by_variable = dict(zip(optimizers.variable_keys(optimizer, trainable_variables), grads))
    pruned = [weight.variable for weight in group.weights]
    found = list(map(by_variable.get, optimizers.variable_keys(optimizer, pruned)))
    for weight, gradient in zip(group.weights, found):
        if gradient is None:
            raise ValueError(
                f"{setting.regrowth or setting.criterion} needs gradients, and {weight.name} has "
                "none."
            )
    return found
