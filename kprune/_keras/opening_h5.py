"""`.h5` files with wrapped layers: what Keras 2 wrote in them, and the optimizer's state."""

import contextlib
import threading
import types

import keras
from keras.src.legacy.saving import json_utils, legacy_h5_format, saving_utils

_ANY = object()
# What Keras 2 writes of its own layers and losses, and some in Keras 3 do not take: left out where
# it has the value that Keras 3 computes with.
_LEFT_OUT = {
    "fn": _ANY,
    "groups": 1,
    "key_shape": _ANY,
    "noise_shape": None,
    "query_shape": _ANY,
    "softmax_robust_masking": False,
    "time_major": False,
    "trainable": True,
    "value_shape": _ANY,
}
# Keras 2 writes those of the two kernels, and these besides.
_OF_SEPARABLE = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")

_lock = threading.Lock()
_open_scopes = 0


def to_keras_3(config):
    """Return a configuration of a model or layer, or a part of it, in the form of Keras 3."""
    if isinstance(config, list):
        return [to_keras_3(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {name: to_keras_3(item) for name, item in config.items()}
    name, arguments = config.get("class_name"), config.get("config")
    if isinstance(name, str) and isinstance(arguments, dict):
        config["config"] = _arguments(name, dict(arguments))
    return config


def _arguments(name, arguments):
    if name != "InputLayer":
        arguments.pop("batch_input_shape", None)  # A model begins with an InputLayer.
    if not hasattr(keras.layers, name) and not hasattr(keras.losses, name):
        return arguments
    for argument, value in _LEFT_OUT.items():
        if argument in arguments and (value is _ANY or arguments[argument] == value):
            del arguments[argument]
    if name.startswith("Separable"):
        for argument in _OF_SEPARABLE:
            arguments.pop(argument, None)
    if isinstance(arguments.get("axis"), list) and len(arguments["axis"]) == 1:
        arguments["axis"] = arguments["axis"][0]
    if arguments.get("reduction") == "auto":
        arguments["reduction"] = "sum_over_batch_size"
    return arguments


@contextlib.contextmanager
def h5_scope():
    """A scope in which `keras.models.load_model` opens `.h5` files as it does `.keras` files.

    Those of Keras 2, too; and the optimizer has its state. (Keras 3.15 builds it for the
    variables that belong to the model itself, and to none of its layers: usually none.)

    Needs `keras.src.legacy.saving`, whose functions that decode the configuration and build the
    optimizer are others within the scope, in all threads: `load_model` has no hook between the
    file and the layers.
    """
    global _open_scopes
    with _lock:
        _open_scopes += 1
        legacy_h5_format.json_utils = _changed(json_utils, decode=_decode)
        legacy_h5_format.saving_utils = _changed(
            saving_utils, try_build_compiled_arguments=_build_compiled
        )
    try:
        yield
    finally:
        with _lock:
            _open_scopes -= 1
            if not _open_scopes:
                legacy_h5_format.json_utils = json_utils
                legacy_h5_format.saving_utils = saving_utils


def _changed(module, **functions):
    return types.SimpleNamespace(**{**vars(module), **functions})


def _decode(text):
    return to_keras_3(json_utils.decode(text))


def _build_compiled(model):
    saving_utils.try_build_compiled_arguments(model)
    if isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.build(model.trainable_variables)
