"""The functional form of a model: the graph that channels are followed through."""

import math

import keras
import numpy as np

from kprune._system.errors import first_line
from kprune.graphs.inputs import possible_inputs
from kprune.graphs.walk import graph_of, nodes
from kprune.graphs.weights import check_model


def functional_form(model):
    """Return the Sequential or functional model that a model is, or can be traced to.

    A subclassed model is called once on symbolic inputs of the shapes it was built with;
    if Keras can record that call, its layers, shared with the model, make a functional
    model.

    Args:
        model: a built `keras.Model`.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: no weights yet, or a `call` that Keras cannot record.
    """
    check_model(model)
    if graph_of(model) is not None:
        return model
    errors = []
    try:
        for arguments in possible_inputs(model):
            try:
                return _recorded(model, arguments)
            except Exception as error:
                errors.append(error)
    except ValueError as error:  # Nothing tells what it is called on.
        errors.append(error)
    raise ValueError(
        f"Channels can only be followed through a graph of layers, and {model.name!r} "
        f"({type(model).__name__}) is a subclassed model whose `call` could not be recorded "
        f"as one: {first_line(errors[0])} Write it as a functional model: "
        "keras.Model(inputs, outputs) of the layers' calls on keras.Input(...)."
    ) from errors[0]


def _recorded(model, arguments):
    """The functional model of a call on inputs of these shapes and types."""
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(batch_shape=spec.shape, dtype=spec.dtype), arguments
    )
    outputs = model.call(*inputs)
    functional = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=model.name)
    _refuse_copied_variables(model, functional)
    read = [n.arguments.keras_tensors for n in nodes(functional) if _takes_strings(n.operation)]
    strings = {id(tensor) for tensors in read for tensor in tensors if tensor.dtype != "string"}
    if not any(id(tensor) in strings for tensor in functional.inputs):
        return functional
    return _recorded(
        model,
        keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape, "string" if id(t) in strings else t.dtype), inputs
        ),
    )


def _takes_strings(operation):
    return isinstance(operation, keras.layers.TextVectorization | keras.layers.StringLookup)


def _refuse_copied_variables(model, functional):
    """Raise ValueError where the graph holds the values of a variable, as of a tied projection.

    Keras records `ops.transpose(embedding.embeddings)` in a `call` as a constant, which would no
    longer be the variable: neither trained nor cut with it.
    """
    found = {}
    for node in nodes(functional):
        for value in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            is_own = isinstance(value, keras.KerasTensor | keras.Variable | np.ndarray)
            if not is_own and keras.ops.is_tensor(value) and len(value.shape) > 1:
                found[id(value)] = node.operation, value
    for operation, value in found.values():
        for variable in model.variables:
            if _same_values(variable, value):
                raise ValueError(
                    f"{operation.name!r} takes the variable {variable.path!r} outside of a layer, "
                    "which would be recorded as a constant. Read it in the `call` of a layer."
                )


def _same_values(variable, value):
    """Whether a tensor holds the entries of a variable, in whatever order or float type."""
    if math.prod(variable.shape) != math.prod(value.shape) or variable.dtype == "string":
        return False
    dtype = keras.backend.standardize_dtype(value.dtype)
    both = (keras.ops.cast(variable, dtype), value)
    first, second = (
        np.sort(keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")).ravel()) for one in both
    )
    # Zeros, say, are nobody's in particular.
    return first[0] != first[-1] and np.array_equal(first, second)
