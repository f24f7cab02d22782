"""Whole models in `.h5`, the format of Keras 2, which Keras 3 still writes."""

import contextlib
import functools

from keras.src.legacy.saving import legacy_h5_format

_scopes: list = []


def save_within(scope):
    """Let models be saved as `.h5` within a scope, in which their optimizers are plain ones.

    The format writes `type(optimizer)` and `optimizer.variables` as they are, without asking the
    optimizer (`.keras` asks it: `save_own_variables`), so that no public method can say what
    belongs into the file. From the first import of this module on, its function in
    `keras.src.legacy.saving.legacy_h5_format` is therefore one that enters the scopes.

    Args:
        scope: function from a model to a context manager. Those that were given first are
            entered first.
    """
    _scopes.append(scope)


_save = legacy_h5_format.save_model_to_hdf5


@functools.wraps(_save)
def _save_model_to_hdf5(model, *args, **kwargs):
    with contextlib.ExitStack() as stack:
        for scope in _scopes:
            stack.enter_context(scope(model))
        return _save(model, *args, **kwargs)


legacy_h5_format.save_model_to_hdf5 = _save_model_to_hdf5
