"""A layer once more, from its configuration and from what that does not say."""

import functools
import inspect
import tempfile

import keras

from kprune._keras import layers
from kprune._keras.saving import functions_allowed
from kprune._system.errors import first_line
from kprune.graphs.identity import own_functions


class CannotCopy(ValueError):
    """A layer cannot be made again from its configuration."""


def copied_layer(layer, change=lambda config: None):
    """Return a new layer of the same configuration, functions and files, without its weights.

    Functions are the old layer's own: their names, which is all that a configuration knows
    of them, may be those of others.

    Args:
        layer: a `keras.Layer`.
        change: function that changes the configuration in place, before the layer is made.

    Raises:
        CannotCopy: its configuration does not tell how to make it.
    """
    try:
        config = _unbuilt(configuration(layer))
        change(config)
        # A Lambda's code is the user's own, and in this process already.
        with functions_allowed():
            new, told = _from_config(layer, config)
        if not told:  # Else the model that the copy goes into could not be saved and loaded.
            vars(new)["get_config"] = functools.partial(_arguments, new)
        if "name" not in config:  # As where Keras itself has written down the arguments.
            new.name = layer.name
    except Exception as error:
        raise CannotCopy(
            f"The layer {layer.name!r} cannot be made again from its configuration; its class "
            "needs a `get_config()` that has every argument of its constructor. "
            f"Received: {type(layer).__name__}, which raised: {first_line(error)}"
        ) from error
    for old, part in pairs(layer, new):
        for name, function in _given_functions(old).items():
            if name in vars(part):
                vars(part)[name] = function
        if hasattr(old, "save_assets"):  # What is no weight, such as a vocabulary.
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                part.load_assets(folder)
    return new


def copy_state(layer, new, is_whole=lambda part: True):
    """Copy what layers work out from their weights when these are loaded.

    Args:
        layer: a `keras.Layer`.
        new: what `copied_layer` made of it, built.
        is_whole: function from the layer, or one inside, to whether nothing is cut from it.
    """
    for old, part in filter(lambda pair: is_whole(pair[0]), pairs(layer, new)):
        if isinstance(old, keras.layers.Normalization):  # By what it computes with, now.
            part.mean, part.variance = old.mean, old.variance
        elif type(old).load_own_variables is not keras.Layer.load_own_variables and old.built:
            store = {}
            old.save_own_variables(store)
            part.load_own_variables(
                {key: keras.ops.convert_to_numpy(value) for key, value in store.items()}
            )


def copy_trainable(layer, new):
    """Make a layer and all in it as trainable as another one, variable by variable."""
    for old, part in pairs(layer, new):
        layers.copy_own_trainable(old, part)
        for variable, other in zip(layers.own_variables(old), layers.own_variables(part)):
            other.trainable = variable.trainable


def pairs(layer, new):
    """Yield `(layer, new)`, and what is inside of one with its counterpart in the other."""
    yield layer, new
    for old, part in zip(_inside(layer), _inside(new)):
        if type(old) is type(part):
            yield from pairs(old, part)


def _inside(layer):
    """The layers in a layer; of a Sequential one without the input that it has once it is built."""
    return layer.layers if isinstance(layer, keras.Sequential) else layers.sublayers(layer)


def initializers(layer):
    """Return a layer's own initializers as a dict from the names of its attributes."""
    found = vars(layer).items()
    return {name: v for name, v in found if isinstance(v, keras.initializers.Initializer)}


def _given_functions(layer):
    """The functions that a layer's constructor was given, as a dict from their names."""
    given = inspect.signature(type(layer).__init__).parameters
    return {
        name: function
        for name, function in own_functions(layer).items()
        if name in given and not hasattr(function, "get_config")  # As initializers have.
    }


def configuration(layer):
    """Return a layer's configuration, or, if its `get_config` fails, what it was made from."""
    if not isinstance(layer, keras.layers.Lambda):
        try:
            return _without_functions(layer).get_config()
        except Exception:
            return _arguments(layer)
    return {
        **keras.Layer.get_config(layer),
        "function": layer.function,
        "output_shape": layers.lambda_output_shape(layer),
        "mask": layer.mask,
        "arguments": dict(layer.arguments),
    }


def _arguments(layer, config=None):
    """What a layer was made from, where its `get_config` fails, or says more than that.

    Args:
        layer: a `keras.Layer`.
        config: dict; by default what its class says of it, or nothing, if that fails.

    Raises:
        ValueError: neither the configuration nor an attribute has an argument's name.
    """
    if config is None:
        try:
            config = type(layer).get_config(layer)
        except Exception:
            config = {}
    parts, found = layers.attributes(layer), keras.Layer.get_config(layer)
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name in config:
            found[name] = config[name]
        elif name in parts:
            found[name] = parts[name]
        elif name not in found:
            raise ValueError(f"nothing tells what its argument {name!r} was")
    return found


def _from_config(layer, config):
    """The layer that a configuration makes, and whether that is all its class takes."""
    kind = type(layer)
    if isinstance(layer, keras.layers.Lambda):  # Its own takes functions as code alone.
        return keras.Layer.from_config.__func__(kind, config), True
    try:
        new = kind.from_config(config)
    except Exception as error:
        # Of sizes that follow from others, a configuration may have more than a constructor takes.
        arguments = _arguments(layer, config)
        if arguments.keys() >= config.keys():
            raise error
        return kind.from_config(arguments), False
    try:
        new.get_config()
    except Exception:
        return new, False
    return new, True


def _without_functions(layer):
    """The layer, or one that tells the same of itself but for functions, here plain ones."""
    changes = dict.fromkeys(_given_functions(layer), keras.activations.linear)
    parts, inside = layers.attributes(layer), layers.sublayers(layer)
    for name, part in parts.items():
        if isinstance(part, keras.Layer) and part in inside:
            changes[name] = _without_functions(part)
    if all(changes[name] is parts[name] for name in changes):
        return layer
    return layers.copy_with_attributes(layer, changes)


def _unbuilt(config):
    """A copy of a configuration in plain containers, in which no layer has shapes yet."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    if isinstance(config, list | tuple | set):
        kind = tuple if isinstance(config, tuple) else list
        return kind(map(_unbuilt, config))
    return config
