"""What is asked of a model before an export begins."""

import keras

from kprune._keras.layers import flatten_layers
from kprune._system.errors import ExportError
from kprune.graphs.weights import has_weights


def require_exportable(model):
    """Refuse what is not a plain, built Keras 3 model, saying what to do.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not built, or still carrying pruning machinery.
    """
    from kprune.training.strip import find_pruning

    if any(cls.__module__.partition(".")[0] == "tf_keras" for cls in type(model).__mro__):
        raise TypeError(
            "This is a tf_keras (Keras 2) model, and kprune exports Keras 3 models: build it with "
            "`keras` and copy its weights, `new.set_weights(old.get_weights())`. "
            f"Received: {model!r}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a `keras.Model`. Received: {model!r} (of type {type(model)})")
    if not has_weights(model):
        raise ValueError(
            f"The model '{model.name}' is not built, so it has no weights yet: call it once on "
            "data, or `model.build(input_shape)`."
        )
    pruning = find_pruning(model)
    if pruning:
        raise ValueError(
            f"The model '{model.name}' still carries pruning machinery: call "
            f"kprune.strip_pruning(model) first. Still attached: {'; '.join(pruning)}"
        )


def require_stateless(model):
    """Raise ExportError for layers whose outputs depend on the calls before.

    ONNX has no such state, and in TFLite it could not be reset, or set, from outside.
    """
    names = [
        layer.name
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
    ]
    if names:
        raise ExportError(
            f"A file cannot keep the state of {', '.join(names)} (stateful=True) from one run to "
            "the next. Build the model with stateful=False, and copy the weights, "
            "`new.set_weights(old.get_weights())`; to go on from a state, make it an input "
            "(initial_state=) and an output (return_state=True)."
        )


def require_batch_size(batch_size):
    """Raise ValueError unless `batch_size` is a positive integer or None."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            "`batch_size` must be a positive integer, or None for a free batch size. "
            f"Received: {batch_size!r}"
        )
