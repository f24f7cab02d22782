"""Take away all pruning machinery; exact zeros stay."""

import keras

from kprune.graphs.weights import check_model, count_zeros, weights_of
from kprune.training.at_risk import watch_zeros
from kprune.training.installing import MASKED_OPTIMIZERS
from kprune.training.mechanism import groups_in, mechanisms
from kprune.training.requests import warn_if_unmet
from kprune.training.zeros import pruning_optimizers, sparse_variables


def find_pruning(model):
    """Return what of kprune is still attached to a model, as a list of strings."""
    return [text for mechanism in mechanisms() for text in mechanism.describe(model)]


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return the model as plain Keras: no pruning machinery, exact zeros.

    A model pruned with `kprune.Pruning` keeps its identity: its optimizer is unwrapped,
    with its state, and the same model comes back, compiled.

    Of a Sequential or functional model with `PruneLowMagnitude` layers a new model comes
    back, uncompiled as TFMOT's is, with the layers that were wrapped, under their own
    names. They and their weights are shared with the wrapped model, which is not for
    further training. In a model of another class they go back to the attributes where
    the wrappers are now, and the same model comes back, still compiled.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model = kprune.strip_pruning(model)
    model.save("pruned.keras")  # opens without kprune
    ```

    A model without any pruning machinery comes back as it is. What is less sparse than was
    asked of it is warned of, with both figures.

    Args:
        model: a built `keras.Model`, or a `PruneLowMagnitude` layer, or a list of layers.

    Raises:
        ValueError: there is pruning machinery, and it has not pruned anything yet.
        TypeError: not a Keras 3 model.
    """
    in_list = isinstance(model, list | tuple)
    parts = list(model) if in_list else [model]
    for part in parts:
        check_model(part)
    parts = _without(parts, prunes=False)  # What a `fit` that was cut short may have left.
    _check_pruned(parts, f"the list of {len(parts)} layers" if in_list else repr(model.name))
    sparse = sparse_variables(parts)
    parts = _without(parts, prunes=True)
    stripped = parts if in_list else parts[0]
    warn_if_unmet(stripped, "stripped")
    watch_zeros(sparse)
    return stripped


def _without(parts, prunes):
    """Take off the mechanisms that prune, or those that don't."""
    for mechanism in mechanisms():
        if mechanism.stripped and mechanism.prunes == prunes:
            parts = [mechanism.remove(part) for part in parts]
    return parts


def _check_pruned(parts, name):
    """Raise where there is pruning machinery that has not pruned anything."""
    pruning = [
        mechanism
        for mechanism in mechanisms()
        if mechanism.prunes and any(mechanism.describe(part) for part in parts)
    ]
    groups = [group for part in parts for group in groups_in(part)]
    waiting = [one for part in parts for one in pruning_optimizers(part) if not one.built]
    hold_nothing = pruning == [MASKED_OPTIMIZERS] and not waiting
    if not pruning or ((groups or hold_nothing) and not any(map(_asks, groups))):
        return
    for mechanism in pruning:
        for part in parts:
            mechanism.mask_weights(part)
    weights = [w for part in parts for w in weights_of(part) if w.reason is None]
    weights += [w for group in groups for w in group.weights]
    if any(count_zeros([weight]) for weight in weights):
        return
    if any(mechanism.zeros_to_come(part) for mechanism in pruning for part in parts):
        return
    attached = "; ".join(text for part in parts for text in find_pruning(part))
    raise ValueError(
        f"There is nothing to strip: no weight of {name} is zero ({attached}). Train it past the "
        "schedule's begin_step first, with the kprune.Pruning callback or with PruneLowMagnitude "
        "layers; or longer, with SparseVariationalDropout layers."
    )


def _asks(group):
    setting = group.setting
    promises = setting.schedule is None or setting.schedule.promises
    return setting.asks and promises and setting.final_sparsity != 0
