"""Take away all pruning machinery; exact zeros stay."""

import keras

from kprune._keras import backend
from kprune.graphs.replace import replace_layers
from kprune.graphs.weights import check_model, count_zeros, weights_of
from kprune.training.at_risk import watch_zeros
from kprune.training.clustering.callback import remove_clustering
from kprune.training.clustering.optimizer import is_clustered
from kprune.training.optimizer import PruningOptimizer
from kprune.training.optimizers import optimizers_in, replace_optimizers
from kprune.training.quantization_aware import is_fake_quantized, remove_fake_quantization
from kprune.training.requests import warn_if_unmet
from kprune.training.wrappers.clustered import clusters_in
from kprune.training.wrappers.pruned import PruneLowMagnitude, wrappers_in
from kprune.training.zeros import sparse_variables


def find_pruning(model):
    """Return what of kprune is still attached to a model, as a list of strings."""
    found = []
    for optimizer in optimizers_in(model):
        if _is_pruning(optimizer):
            found.append(f"the optimizer {optimizer.name!r} of {model.name!r} prunes")
    for wrapper in wrappers_in(model):
        found.append(f"the layer {wrapper.layer.name!r} is wrapped in PruneLowMagnitude")
    for wrapper in clusters_in(model):
        name = wrapper.layer.name
        found.append(f"the layer {name!r} is wrapped in ClusterWeights (kprune.strip_clustering)")
    if is_fake_quantized(model):
        found.append(f"{model.name!r} computes in 8 bits (QuantizationAware, in a `fit` cut short)")
    if is_clustered(model):
        found.append(f"{model.name!r} is being clustered (WeightClustering, in a `fit` cut short)")
    return found


def strip_pruning(model):
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
    if isinstance(model, list | tuple):
        layers = list(model)
        _check_pruned(layers, f"the list of {len(layers)} layers")
        sparse = sparse_variables(layers)
        stripped = [_unwrapped(layer) for layer in layers]
    else:
        check_model(model)
        cut_short = [remove_fake_quantization(model), remove_clustering(model)]
        if not any(cut_short) or find_pruning(model):
            _check_pruned([model], repr(model.name))
        sparse = sparse_variables(model)
        if any(map(_is_pruning, optimizers_in(model))):
            replace_optimizers(model, lambda one: one.base_optimizer if _is_pruning(one) else one)
            backend.recompile(model)
        stripped = _unwrapped(model)
    warn_if_unmet(stripped, "stripped")
    watch_zeros(sparse)
    return stripped


def _is_pruning(optimizer):
    return isinstance(optimizer, PruningOptimizer)


def _unwrapped(layer):
    wrappers = wrappers_in(layer)
    for wrapper in wrappers:
        wrapper.mask_weights()
    plain = replace_layers(
        layer,
        lambda part: part.layer if isinstance(part, PruneLowMagnitude) else part,
        inside=lambda part: True,
    )
    for wrapper in wrappers:
        wrapper.release()
    return plain


def _check_pruned(layers, name):
    for layer in layers:
        check_model(layer)
    wrappers = [wrapper for layer in layers for wrapper in wrappers_in(layer)]
    optimizers = [one for layer in layers for one in optimizers_in(layer) if _is_pruning(one)]
    groups = [w._group for w in wrappers if w._group] + [
        g for one in optimizers for g in one.groups
    ]
    if not (wrappers or optimizers) or (groups and not any(map(_asks, groups))):
        return
    weights = [w for layer in layers for w in weights_of(layer) if w.reason is None]
    masks = [mask for wrapper in wrappers for _, mask, _ in wrapper.pruning_vars]
    if any(count_zeros([w]) for w in weights) or any(map(_has_zeros, masks)):
        return
    attached = "; ".join(text for layer in layers for text in find_pruning(layer))
    raise ValueError(
        f"There is nothing to strip: no weight of {name} is zero ({attached}). Train it past the "
        "schedule's begin_step first, with the kprune.Pruning callback or with PruneLowMagnitude "
        "layers."
    )


def _asks(group):
    return group.setting.asks and group.setting.final_sparsity != 0


def _has_zeros(mask):
    return not bool(keras.ops.all(keras.ops.convert_to_tensor(mask)))
