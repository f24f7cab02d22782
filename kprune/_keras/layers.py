"""What is inside a layer: the layers and variables in it, and what only Keras knows of it."""

import keras
from keras.src.applications.convnext import LayerScale as _LayerScale
from keras.src.utils.python_utils import is_default

# Attributes in which Keras and TensorFlow keep a layer's parts a second time.
_BOOKKEEPING = ("_layers", "_tracker", "_modules", "_metrics", "_compiled_trainable_state")


def flatten_layers(layer, include_self=True):
    """Return a layer and all layers inside it, however deep, as a list.

    Needs `Layer._flatten_layers`: the public `Model.layers` stops at the first level, and layers
    that are no models have none.
    """
    return list(layer._flatten_layers(include_self=include_self))


def sublayers(layer):
    """Return the layers that a layer holds itself, one level down, as a list.

    Needs `Layer._layers`: `layers` is public for models only, and leaves out what is in the
    attributes of a functional model's subclass.
    """
    return list(layer._layers)


def own_variables(layer):
    """Return the variables of a layer that are in no layer inside it.

    Those that were made trainable come first. Needs `Layer._trainable_variables` and
    `Layer._non_trainable_variables`: public lists include those of the layers inside.
    """
    return layer._trainable_variables + layer._non_trainable_variables


def made_trainable(operation):
    """Return the variables in `own_variables` that were made trainable, frozen by now or not.

    Needs `Layer._trainable_variables`: the public `trainable_variables` is empty where a layer is
    frozen. An operation that is no layer has none.
    """
    return list(getattr(operation, "_trainable_variables", ()))


def made_not_trainable(layer):
    """Return the variables in `own_variables` that were made with `trainable=False`.

    Needs `Layer._non_trainable_variables`, as `made_trainable` does its own.
    """
    return list(layer._non_trainable_variables)


def copy_own_trainable(layer, new):
    """Give a layer the flag `trainable` of another one, and leave what is inside as it is.

    Needs `Layer._trainable`: setting the public property sets it in all layers and variables
    inside, too.
    """
    new._trainable = layer._trainable


def attributes(layer):
    """Return a layer's attributes as a dict, without those in which its parts are twice.

    Needs the names in which Keras and TensorFlow keep them, and `torch.nn.Module._modules`, where
    layers are on torch: `vars` says the one and lacks the other.
    """
    found = {**vars(layer), **vars(layer).get("_modules", {})}
    return {
        name: value
        for name, value in found.items()
        if name not in _BOOKKEEPING and not name.startswith("_self_")
    }


def copy_with_attributes(layer, changes):
    """Return an object of a layer's class with its attributes, some changed.

    For `get_config`, and for calls: what Keras tracks is shared with the layer. Needs
    `torch.nn.Module._modules`, in which torch keeps layers instead of in `vars`; `setattr` would
    have them tracked.
    """
    other = object.__new__(type(layer))
    vars(other).update(vars(layer))
    if "_modules" in vars(layer):
        vars(other)["_modules"] = dict(vars(layer)["_modules"])
    for name, value in changes.items():
        place = vars(other) if name in vars(other) else vars(other)["_modules"]
        place[name] = value
    return other


def takes_training(operation):
    """Whether an operation's call takes the argument `training`; False for what is no layer.

    Needs `Layer._call_has_training_arg`: the signature of `call` does not tell of functional
    models, which take it.
    """
    return isinstance(operation, keras.Layer) and operation._call_has_training_arg


def has_own_build(layer):
    """Whether a layer defines `build`, so that it has weights only afterwards.

    Needs `keras.src.utils.python_utils.is_default`: Keras marks its own `Layer.build`, and wraps
    every layer's, so that methods cannot be compared.
    """
    return not is_default(layer.build)


def is_preprocessing(operation):
    """Whether an operation is one of Keras' layers for preprocessing.

    Needs the name of the module: they have no class in common, and `keras.layers` has them beside
    all others.
    """
    return type(operation).__module__.startswith("keras.src.layers.preprocessing")


def layer_scale():
    """Return the class `LayerScale`, which ConvNeXt is made of.

    Needs `keras.src.applications.convnext`: `keras.applications.convnext` has the models only.
    """
    return _LayerScale


def lambda_output_shape(layer):
    """Return the `output_shape` that a `keras.layers.Lambda` was given, or None.

    Needs `Lambda._output_shape`: its configuration has the code of a function instead.
    """
    return layer._output_shape


def attention_axes(layer):
    """Return the axes over which a built `keras.layers.MultiHeadAttention` attends, as a tuple.

    Needs `MultiHeadAttention._attention_axes`: the configuration has None where they are all.
    """
    return layer._attention_axes


def attention_gate(layer):
    """Return the layer that gates the outputs of a `MultiHeadAttention`; None without a gate.

    Needs `MultiHeadAttention._use_gate` and `_gate_dense`, which no property shows, unlike
    `query_dense` and its like. Keras before 3.13 has no gates.
    """
    return layer._gate_dense if getattr(layer, "_use_gate", False) else None


def grouped_attention_parts(layer):
    """Return the layers in a built `keras.layers.GroupedQueryAttention` as a dict.

    Needs `_query_dense`, `_key_dense`, `_value_dense`, `_gate_dense` and `_output_dense`: unlike
    `MultiHeadAttention` it shows them by no property. The gate is None without one; Keras before
    3.13 has none.
    """
    gate = layer._gate_dense if getattr(layer, "use_gate", False) else None
    return {
        "query": layer._query_dense,
        "key": layer._key_dense,
        "value": layer._value_dense,
        "gate": gate,
        "output": layer._output_dense,
    }
