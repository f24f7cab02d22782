"""What decides the outcome of an operation, as something to look it up by."""

import hashlib

import keras
import numpy as np

from kprune._keras.layers import flatten_layers

_PLAIN = (type(None), bool, int, str, bytes, type(Ellipsis))


class Same:
    """Equal to another one of the very same object only, which it keeps alive."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self):
        return id(self.value)


def identity_of(value):
    """Return something hashable that is equal for two values only if they compute the same.

    Plain data and arrays are compared by what they hold, functions by being the very same
    one: two of one name may differ, as may one function with other captured values.
    Operations are compared by their class, configuration and functions; whatever else by
    being the very same.
    """
    kind = type(value)
    if isinstance(value, _PLAIN):
        return kind, value
    if isinstance(value, float | complex):
        return kind, repr(value)
    if isinstance(value, dict):
        items = [(identity_of(key), identity_of(item)) for key, item in value.items()]
        return "dict", frozenset(items)
    if isinstance(value, list | tuple):
        return "list" if isinstance(value, list) else kind, tuple(map(identity_of, value))
    if isinstance(value, slice):
        return "slice", identity_of((value.start, value.stop, value.step))
    if isinstance(value, keras.Operation):
        return _operation(value)
    if isinstance(value, np.ndarray | np.generic) or keras.ops.is_tensor(value):
        return _array(value)
    return Same(value)


def own_functions(thing):
    """Return the functions that an object was given, as a dict from its attributes' names.

    What its class has under the same name, as the `build` that Keras wraps, is not among
    them, nor are layers.
    """
    return {
        name: value
        for name, value in vars(thing).items()
        if callable(value)
        and not hasattr(type(thing), name)
        and not isinstance(value, type | keras.Operation)
    }


def _operation(operation):
    try:
        config = dict(operation.get_config())
    except Exception:  # One that cannot tell; then it is like no other.
        return Same(operation)
    config.pop("name", None)
    parts = flatten_layers(operation) if isinstance(operation, keras.Layer) else [operation]
    functions = [Same(f) for part in parts for f in own_functions(part).values()]
    return type(operation), identity_of(config), tuple(functions)


def _array(value):
    try:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
    except Exception:
        return Same(value)
    if array.dtype == object:
        return Same(value)
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()
