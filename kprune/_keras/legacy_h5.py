"""Whole models in `.h5`, the format of Keras 2, which Keras 3 still writes."""

import functools

from keras.src.legacy.saving import legacy_h5_format


def save_instead(kind, replacement):
    """Let another optimizer be saved where a model that is saved as `.h5` has one of a kind.

    The format writes `type(optimizer)` and `optimizer.variables` as they are, without asking the
    optimizer (`.keras` asks it: `save_own_variables`), so that no public method can say what
    belongs into the file.

    Args:
        kind: a class of optimizers.
        replacement: function from an optimizer of that class to the one that is saved.
    """
    save = legacy_h5_format.save_model_to_hdf5

    @functools.wraps(save)
    def save_model_to_hdf5(model, *args, **kwargs):
        optimizer = getattr(model, "optimizer", None)
        if not isinstance(optimizer, kind):
            return save(model, *args, **kwargs)
        model.optimizer = replacement(optimizer)
        try:
            return save(model, *args, **kwargs)
        finally:
            model.optimizer = optimizer

    legacy_h5_format.save_model_to_hdf5 = save_model_to_hdf5
