"""The classes and functions of a model that Keras does not define, on their way to a child process.

A `.keras` file knows them by name, and a name is not enough: two functions of one name would
become one, and a function named `relu` Keras' own. While the model is saved each has a name that
nothing else has.
"""

import contextlib
import dataclasses
import importlib.util
import pickle
import sys
import types

import keras

from kprune._keras.layers import flatten_layers
from kprune._keras.saving import registered_names
from kprune._system.workplace import LOCK

_PACKAGE = "kprune_export"


@dataclasses.dataclass
class Parcel:
    """Custom objects, ready to travel.

    Attributes:
        pickles: bytes of each object.
        names: {name in the `.keras` file: its number among `pickles`}.
        failures: {name of an object that cannot be pickled: why}.
    """

    pickles: list = dataclasses.field(default_factory=list)
    names: dict = dataclasses.field(default_factory=dict)
    failures: dict = dataclasses.field(default_factory=dict)

    def unpack(self):
        """Return {name: object}, for `custom_objects` of `keras.saving.load_model`."""
        objects = [pickle.loads(data) for data in self.pickles]
        return {name: objects[number] for name, number in self.names.items()}


@contextlib.contextmanager
def named_apart(model):
    """Yield the model's custom objects; inside the block Keras saves each under a name of its own.

    A `.keras` file does not hold lambdas so that they could be loaded again: inside the block they
    are functions like others.

    Yields:
        {the object's name in the file: the object}, with the names that a `get_config` of the
        user's may have written, where these are clear.
    """
    found = _found(model)
    registered, lambdas = registered_names(), []
    usual = {**keras.saving.get_custom_objects()}
    with LOCK:
        before = {thing: registered[thing] for thing in found if thing in registered}
        try:
            for thing in found:
                if thing.__name__ == "<lambda>":
                    lambdas.append(thing)
                    thing.__name__ = f"lambda_{len(lambdas)}"
                usual.setdefault(thing.__name__, thing)
            unique = {f"{_PACKAGE}>{i}_{thing.__name__}": thing for i, thing in enumerate(found)}
            for name, thing in unique.items():
                registered[thing] = name
            yield {**{n: thing for n, thing in usual.items() if not _is_known(thing)}, **unique}
        finally:
            for thing in found:
                registered.pop(thing, None)
            registered.update(before)
            for function in lambdas:
                function.__name__ = "<lambda>"


def _found(model):
    """Return the custom classes and functions that the model's layers are or hold, once each."""
    found, seen, rest = {}, set(), [model]
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            rest += value
        elif isinstance(value, types.FunctionType):
            # Keras wraps the methods of a layer in functions that hold the layer.
            if not isinstance(getattr(value, "__wrapped__", None), types.MethodType):
                found[value] = None
        elif isinstance(value, keras.Operation):
            found[type(value)] = None
            layers = flatten_layers(value) if isinstance(value, keras.Layer) else []
            rest += [*vars(value).values(), *layers, *getattr(value, "operations", [])]
        elif hasattr(value, "get_config") and not isinstance(value, type):
            found[type(value)] = None
            rest += vars(value).values() if hasattr(value, "__dict__") else []
    return [thing for thing in found if not _is_known(thing)]


def _is_known(thing):
    return getattr(thing, "__module__", "").partition(".")[0] in ("keras", "kprune", "builtins")


def packed(objects):
    """Pickle {name: object} into a `Parcel`, by value where a fresh process could not import."""
    import cloudpickle

    parcel, numbers = Parcel(), {}
    for name, thing in objects.items():
        if id(thing) not in numbers:
            with _by_value(thing):
                try:
                    parcel.pickles.append(cloudpickle.dumps(thing))
                except Exception as error:
                    parcel.failures[thing.__name__] = f"{type(error).__name__}: {error}"
                    numbers[id(thing)] = None
                else:
                    numbers[id(thing)] = len(parcel.pickles) - 1
        if numbers[id(thing)] is not None:
            parcel.names[name] = numbers[id(thing)]
    return parcel


@contextlib.contextmanager
def _by_value(thing):
    import cloudpickle

    module = sys.modules.get(getattr(thing, "__module__", None))
    known = cloudpickle.list_registry_pickle_by_value()
    if module is None or module.__name__ in known or _importable(module.__name__):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
