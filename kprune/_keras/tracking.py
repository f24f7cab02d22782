"""How Keras keeps track of the parts of layers and optimizers, and how one is put for another."""

import keras
from keras.src.utils.tracking import DotNotTrackScope, no_automatic_dependency_tracking

from kprune._keras.layers import flatten_layers

# Of layers and optimizers; `dir` lists it, and Keras goes through what `dir` lists when it saves.
TRACKER = "_tracker"


def untracked(method):
    """Decorate a method: what it sets as attributes is not tracked as parts of the object.

    Needs `no_automatic_dependency_tracking` of `keras.src.utils.tracking`: an optimizer would
    count a model's variables among its own.
    """
    return no_automatic_dependency_tracking(method)


def replace_sublayer(owner, old, new):
    """Have a layer count another one among its parts; attributes stay as they are.

    Needs `Layer._tracker`: it refuses changes of a built layer, and setting the attribute would
    add the new layer and keep the old one.
    """
    owner._tracker.replace_tracked_value("layers", old, new)


def replace_part(owner, old, new):
    """Have a layer use another variable or layer than the one that it made for itself.

    Wherever it is in the layer's attributes, and in lists and dicts there. Needs
    `Layer._tracker`, which is locked once a layer is built, and `torch.nn.Module._modules`.
    """
    for name, (_, store) in owner._tracker.config.items():
        for i, value in enumerate(store):
            if value is old:
                store[i] = new
                owner._tracker.stored_ids[name] ^= {id(old), id(new)}
    with DotNotTrackScope():
        for name, value in [*vars(owner).items(), *vars(owner).get("_modules", {}).items()]:
            if value is old:
                setattr(owner, name, new)
            elif isinstance(value, list):
                for i in (i for i, item in enumerate(value) if item is old):
                    list.__setitem__(value, i, new)
            elif isinstance(value, dict):
                for key in [key for key, item in value.items() if item is old]:
                    dict.__setitem__(value, key, new)
    _renew_torch_parameters(owner)


def forget_derived(layer):
    """Drop what a layer derived from its parts: compiled functions, and torch's parameters.

    Needs `Model._compiled_trainable_state`, without which Keras warns that `trainable` has
    changed, and `_track_variables` of layers on torch, which run once, when a layer is built.
    """
    if isinstance(layer, keras.Model):
        layer.train_function = layer.test_function = layer.predict_function = None
        if layer.compiled:
            layer._compiled_trainable_state = {
                part: part.trainable for part in flatten_layers(layer)
            }
    _renew_torch_parameters(layer)


def _renew_torch_parameters(layer):
    if hasattr(layer, "_torch_params"):
        layer._track_variables()
