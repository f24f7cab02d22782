"""The optimizers that a model holds: Keras' own, and those of a `train_step` of the user's own."""

import keras

from kprune._keras.layers import flatten_layers


def optimizers_in(model):
    """Return the optimizers of a model and of the layers in it, each once, `compile`'s first.

    They are looked for in attributes, and in lists, tuples and dicts there.

    Args:
        model: a `keras.Model`.
    """
    found = {}

    def note(optimizer):
        found.setdefault(id(optimizer), optimizer)
        return optimizer

    if isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        note(model.optimizer)
    replace_optimizers(model, note)
    return list(found.values())


def replace_optimizers(model, replacement):
    """Put other optimizers in the places of those that `optimizers_in` finds.

    Args:
        model: a `keras.Model`.
        replacement: function from an optimizer to one; it may be called again for the same one.
    """
    for owner in flatten_layers(model):
        for name, value in list(vars(owner).items()):
            new = _replaced(value, replacement)
            if new is not value:
                setattr(owner, name, new)


def all_optimizers_in(model):
    """Return the optimizers of a model, and those that they hold, as `LossScaleOptimizer` does."""
    found = optimizers_in(model)
    for optimizer in found:
        found += [inner for _, inner in _inside(optimizer)]
    return found


def _inside(optimizer):
    held = vars(optimizer).items()
    return [(name, one) for name, one in held if isinstance(one, keras.optimizers.Optimizer)]


def replace_innermost(model, replacement, kind):
    """Put other optimizers in the places of those that hold no other.

    Args:
        model: a `keras.Model`.
        replacement: as of `replace_optimizers`.
        kind: a class of optimizers that are innermost, whatever they hold.
    """

    def replaced(optimizer):
        inside = [] if isinstance(optimizer, kind) else _inside(optimizer)
        if not inside:
            return replacement(optimizer)
        for name, inner in inside:
            new = replaced(inner)
            if new is not inner:
                setattr(optimizer, name, new)
        return optimizer

    replace_optimizers(model, replaced)


def _replaced(value, replacement):
    if isinstance(value, keras.optimizers.Optimizer):
        return replacement(value)
    if isinstance(value, list | dict):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            # Lists of lists hold layers, and may refer to themselves.
            if isinstance(item, keras.optimizers.Optimizer) and replacement(item) is not item:
                value[key] = replacement(item)
    elif isinstance(value, tuple) and any(
        isinstance(item, keras.optimizers.Optimizer) for item in value
    ):
        items = [_replaced(item, replacement) for item in value]
        if any(new is not item for new, item in zip(items, value)):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
