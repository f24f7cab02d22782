"""A step of a penalty, between the optimizer's and the masks."""

from keras import ops

from kprune._keras import backend


def penalize(optimizer, group, step, made, update, gradients, accumulated):
    """Draw a group's weights towards zero, by the penalty of its setting.

    Args:
        optimizer: a built `PruningOptimizer`.
        group: one of its `Group`s, with a penalty.
        step: integer scalar tensor, the optimizer's.
        made: bool scalar tensor, whether the optimizer has made a step.
        update: bool scalar tensor, whether masks change now.
        gradients: list of tensors or None, as for `Group.masks`.
        accumulated: list of tensors or None, as for `Group.masks`.
    """
    penalty, schedule = group.setting.penalty, group.setting.schedule
    variables = [weight.variable for weight in group.weights]
    values = [ops.stop_gradient(backend.read(variable)) for variable in variables]
    rate = ops.cast(backend.read(optimizer.learning_rate), "float32")
    amount = rate * penalty.strength * penalty.share(step, schedule)
    if penalty.of_pruned:
        amount = amount * getattr(schedule, "frequency", 1)

        def faded():
            final = schedule.final_sparsity
            kept = group.masks(values, final, gradients, accumulated=accumulated)
            return group.penalized(values, amount, [ops.logical_not(mask) for mask in kept])

        found = backend.cond(update, faded, lambda: values)
    else:
        found = group.penalized(values, ops.where(made, amount, 0.0))
    backend.assign_all(variables, found)
