"""Rewinding: what pruning has left goes back to what it was early in training."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune._keras import backend
from kprune.graphs.weights import check_model, count_zeros, weights_of
from kprune.training.strip import find_pruning


def rewind(model: keras.Model, to: Any) -> None:
    """Set the weights of a pruned model back to earlier values, and leave its zeros zero.

    Trained again, with the learning rates of that time, such a network often comes closer to
    the dense one than by fine-tuning (Frankle et al., "Linear mode connectivity and the lottery
    ticket hypothesis", 2020: back to some epoch, not to the very start). With the weights as they
    are, and only the learning rates of the first training, it is learning rate rewinding (Renda et
    al., "Comparing rewinding and fine-tuning in neural network pruning", 2020), which needs no
    function: compile again, and train with `kprune.HoldZeros()`.

    What is zero in part of a weight stays so; a weight that is zero as a whole, as some are
    initialized, goes back as well.

    Example:

    ```python
    model.fit(x, y, epochs=1)
    early = model.get_weights()
    model.fit(x, y, epochs=20, callbacks=[kprune.Pruning(0.95)])
    model = kprune.strip_pruning(model)
    kprune.training.rewind(model, early)
    model.compile("adam", "sparse_categorical_crossentropy")  # An optimizer without history.
    model.fit(x, y, epochs=20, callbacks=[kprune.HoldZeros()])
    ```

    Args:
        model: a built `keras.Model`, stripped.
        to: the earlier values: what `model.get_weights()` returned, or the path of a
            `.weights.h5` or `.keras` file of this model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: the model is not built or not stripped, has no zeros, or the values are not
            those of this model or are not finite; the model is left as it was.
        OSError: the file cannot be read; the model is left as it was.
    """
    check_model(model)
    installed = find_pruning(model)
    if installed:
        raise ValueError(
            f"{'; '.join(installed)}. Take it off first: model = kprune.strip_pruning(model)"
        )
    sparse = [w for w in weights_of(model) if 0 < count_zeros([w]) < w.size]
    if not any(weight.is_kernel for weight in sparse):
        raise ValueError(f"No kernel of {model.name!r} has zeros to keep: prune it first.")
    earlier = _checked(model, _read(model, to))
    kept = {id(w.variable): ops.not_equal(backend.read(w.variable), 0) for w in sparse}
    for variable, value in zip(model.weights, earlier):
        mask = kept.get(id(variable))
        variable.assign(value)
        if mask is not None:
            backend.assign_masked([variable], [mask])


def _read(model, to):
    """The earlier values, a list of arrays; a file is read by the model itself, and undone."""
    if not isinstance(to, str | os.PathLike):
        return list(to)
    path, now = Path(to), model.get_weights()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} to rewind to.")
    try:
        model.load_weights(path)
        return model.get_weights()
    finally:
        model.set_weights(now)


def _checked(model, values):
    wanted = [tuple(variable.shape) for variable in model.weights]
    values = [np.asarray(value) for value in values]
    received = [value.shape for value in values]
    if wanted != received:
        raise ValueError(
            f"The earlier values are not those of {model.name!r}, in number or shape. Expected: "
            f"{wanted[:5]}... ({len(wanted)} in all). Received: {received[:5]}... ({len(received)})"
        )
    for variable, value in zip(model.weights, values):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"The earlier values of {variable.path} are not all finite.")
    return values
