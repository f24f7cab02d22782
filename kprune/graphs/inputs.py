"""What a model is called on, as far as it tells."""

import keras

from kprune._keras.layers import flatten_layers
from kprune.graphs.signature import describe, described, symbolic_inputs
from kprune.graphs.walk import graph_of

# Subclassed models remember shapes and no types.
_OTHER_DTYPES = ("int32", "string")


def possible_inputs(model):
    """Return what a model may be called on, the likeliest first.

    Functional and Sequential models know. A subclassed model remembers the shapes that it was
    called on; one that never was, since its `train_step` calls a model inside it that has all
    the weights, is taken to be called on what that is called on.

    Returns:
        List of lists of positional arguments, whose leaves have a `shape`, `dtype` and `name`.

    Raises:
        ValueError: nothing tells.
    """
    structure = symbolic_inputs(model)
    if structure is not None:
        return [[structure]]
    try:
        arguments = describe(model).arguments
    except ValueError:
        structure = _inputs_of_the_one_inside(model)
        if structure is None:
            raise
        return [[structure]]
    return [arguments, *(_of_dtype(arguments, dtype) for dtype in _OTHER_DTYPES)]


def signature_of(model, inputs=None):
    """Return the `Signature` of a model, as `describe` does, or that of the one inside it.

    Raises:
        ValueError: nothing tells what the model takes.
    """
    try:
        return describe(model, inputs)
    except ValueError:
        structure = _inputs_of_the_one_inside(model) if symbolic_inputs(model) is None else None
        if structure is None:
            raise
        return described([structure])


def _inputs_of_the_one_inside(model):
    own = {id(variable) for variable in model.weights}
    for layer in flatten_layers(model, include_self=False):
        if graph_of(layer) is not None:
            structure = symbolic_inputs(layer)
            if structure is not None and own == {id(variable) for variable in layer.weights}:
                return structure
    return None


def _of_dtype(arguments, dtype):
    return keras.tree.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, dtype=dtype, name=spec.name), arguments
    )
