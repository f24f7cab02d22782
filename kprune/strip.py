"""Take away all pruning machinery; exact zeros stay."""

import keras

from kprune import _backend, selection
from kprune._replace import replace_layers
from kprune.clustering.wrappers import clusters_in
from kprune.optimizer import PruningOptimizer
from kprune.quantization import is_fake_quantized, remove_fake_quantization
from kprune.sharing import is_shared, remove_sharing
from kprune.wrappers import PruneLowMagnitude, wrappers_in


def find_pruning(model):
    """Return what of kprune is still attached to a model, as a list of strings."""
    found = []
    if isinstance(getattr(model, "optimizer", None), PruningOptimizer):
        found.append(f"the optimizer of {model.name!r} is a PruningOptimizer")
    for wrapper in wrappers_in(model):
        found.append(f"the layer {wrapper.layer.name!r} is wrapped in PruneLowMagnitude")
    for wrapper in clusters_in(model):
        name = wrapper.layer.name
        found.append(f"the layer {name!r} is wrapped in ClusterWeights (kprune.strip_clustering)")
    if is_fake_quantized(model):
        found.append(f"{model.name!r} computes in 8 bits (QuantizationAware, in a `fit` cut short)")
    if is_shared(model):
        found.append(f"{model.name!r} shares weights (WeightSharing, in a `fit` cut short)")
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

    Args:
        model: a built `keras.Model` that was pruned, or a `PruneLowMagnitude` layer, or a
            list of layers.

    Raises:
        ValueError: nothing of the model was pruned yet.
        TypeError: not a Keras 3 model.
    """
    if isinstance(model, list | tuple):
        layers = list(model)
        _check_pruned(layers, f"the list of {len(layers)} layers")
        return [_unwrapped(layer) for layer in layers]
    selection.check_model(model)
    cut_short = [remove_fake_quantization(model), remove_sharing(model)]
    if not any(cut_short) or find_pruning(model):
        _check_pruned([model], repr(model.name))
    if isinstance(getattr(model, "optimizer", None), PruningOptimizer):
        model.optimizer = model.optimizer.base_optimizer
        _backend.recompile(model)
    return _unwrapped(model)


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
        selection.check_model(layer)
    weights = [w for layer in layers for w in selection.weights(layer) if w.reason is None]
    masks = [mask for layer in layers for w in wrappers_in(layer) for _, mask, _ in w.pruning_vars]
    if any(selection.count_zeros([w]) for w in weights) or any(map(_has_zeros, masks)):
        return
    attached = "; ".join(text for layer in layers for text in find_pruning(layer))
    raise ValueError(
        f"There is nothing to strip: no weight of {name} is zero "
        f"({attached or 'it carries no pruning machinery'}). Train it past the schedule's "
        "begin_step first, with the kprune.Pruning callback or with PruneLowMagnitude layers."
    )


def _has_zeros(mask):
    return not bool(keras.ops.all(keras.ops.convert_to_tensor(mask)))
