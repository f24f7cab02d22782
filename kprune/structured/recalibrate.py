"""Statistics of batch normalizations, measured again after pruning."""

from typing import Any

import keras
import numpy as np

from kprune._keras.layers import flatten_layers


def recalibrate_batchnorm(
    model: keras.Model, data: Any, batch_size: int = 64, batches: int | None = None
) -> keras.Model:
    """Measure the statistics of the model's batch normalizations again, in place.

    After channels are removed, means and variances inside the model are others than those
    that batch normalizations have stored, which costs more accuracy than the channels
    themselves. This replaces them by the average over batches of data, without training.

    Example:

    ```python
    small = kprune.prune_channels(model, flops=0.5)
    kprune.structured.recalibrate_batchnorm(small, x_train[:2048])
    ```

    Args:
        model: a built Keras model.
        data: inputs of the model: an array, for a model with several inputs a list or dict
            of arrays, or an iterable of batches, each inputs or `(inputs, targets)`.
        batch_size: int, examples in a batch that is cut from arrays.
        batches: int, how many batches to use; all by default.

    Returns:
        The model.

    Raises:
        ValueError: a model without batch normalizations in training, or data without a
            batch; the model is unchanged then, and also if a batch does not fit it.
    """
    norms = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        raise ValueError(f"{model.name!r} has no batch normalization that is trainable.")
    momenta = [layer.momentum for layer in norms]
    statistics = [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
    before = [keras.ops.convert_to_numpy(v) for v in statistics]
    seen = 0
    try:
        for inputs in _batches(model, data, batch_size):
            if seen == batches:
                break
            for layer in norms:
                # The average over the batches so far; the first one replaces what was stored.
                layer.momentum = seen / (seen + 1)
            model(inputs, training=True)
            seen += 1
    except Exception:
        for variable, value in zip(statistics, before):
            variable.assign(value)
        raise
    finally:
        for layer, momentum in zip(norms, momenta):
            layer.momentum = momentum
    if not seen:
        raise ValueError("`data` has no batch in it, so no statistics were measured.")
    return model


def _batches(model, data, batch_size):
    several = isinstance(data, list | tuple) and len(getattr(model, "inputs", [0])) > 1
    if not (several or isinstance(data, dict) or hasattr(data, "shape")):
        for batch in data:
            yield batch[0] if isinstance(batch, tuple) else batch
        return
    for start in range(0, len(keras.tree.flatten(data)[0]), batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda array, part=part: np.asarray(array[part]), data)
