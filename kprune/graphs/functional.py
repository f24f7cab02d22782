"""The functional form of a model: the graph that channels are followed through."""

import math

import keras
import numpy as np

from kprune._keras.graph import operation_class
from kprune._system.errors import first_line
from kprune.graphs.inputs import possible_inputs
from kprune.graphs.rebuild import build_again
from kprune.graphs.walk import graph_of, nodes
from kprune.graphs.weights import check_model

_MATMUL = operation_class("Matmul")


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

    def record():
        outputs = model.call(*inputs)
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=model.name)

    functional = _with_variables(model, record(), record)
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


def _with_variables(model, functional, again):
    """The functional model with variables in the place of their values, as of a tied projection.

    Keras records `ops.transpose(embedding.embeddings)` in a `call` as a constant, which would no
    longer be the variable: neither trained nor cut with it.

    Args:
        model: the model that `functional` was recorded of.
        functional: the recorded model.
        again: function without arguments that records it once more.

    Raises:
        ValueError: variables are read outside of layers in another way than for a matrix product.
    """
    constants = _constants(functional)
    if not constants:
        return functional
    found = {}
    for operation, value in constants:
        same = [variable for variable in model.variables if _same_values(variable, value)]
        if same:
            found[id(value)] = operation, _read(operation, value, same)
    _refuse_computed(model, [one for one in constants if id(one[1]) not in found], constants, again)

    def place(node, args, kwargs):
        read = [id(leaf) for leaf in keras.tree.flatten((args, kwargs)) if id(leaf) in found]
        if not read:
            return node.operation, args, kwargs
        operation, (variable, transposed) = found[read[0]]
        if not isinstance(operation, _MATMUL) or len(read) > 1 or read[0] != id(args[-1]):
            raise _outside(operation, variable)
        if transposed:
            return keras.ops.einsum, ["...i,oi->...o", args[0], variable], {}
        return operation, [args[0], variable], {}

    return build_again(functional, place) if found else functional


def _constants(functional):
    """The calls with tensors for arguments that no call made: (operation, tensor) of each."""
    found = []
    for node in nodes(functional):
        for value in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            is_own = isinstance(value, keras.KerasTensor | keras.Variable | np.ndarray)
            if not is_own and keras.ops.is_tensor(value) and len(value.shape) > 1:
                found.append((node.operation, value))
    return found


def _read(operation, value, variables):
    """`(variable, whether transposed)` that a constant is the value of."""
    array = keras.ops.convert_to_numpy(value)
    own = keras.ops.convert_to_numpy(variables[0])
    if len(variables) == 1 and own.ndim == 2:
        for transposed, form in ((False, own), (True, own.T)):
            if form.shape == array.shape and np.array_equal(form, array):
                return variables[0], transposed
    raise _outside(operation, variables[0])


def _refuse_computed(model, unexplained, constants, again):
    """Raise ValueError where a constant is another one with other values of the variables."""
    if not unexplained:
        return
    others = [(v, v * 1.5 + 0.5) for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
    try:
        with keras.StatelessScope(state_mapping=others):
            other = _constants(again())
    except Exception:  # Then nobody can tell.
        return
    if len(other) != len(constants):
        return
    for (operation, value), (_, new) in zip(constants, other):
        is_asked = any(value is one for _, one in unexplained)
        if is_asked and not np.array_equal(*map(keras.ops.convert_to_numpy, (value, new))):
            raise _outside(operation)


def _outside(operation, variable=None):
    which = "variables of the model" if variable is None else f"the variable {variable.path!r}"
    return ValueError(
        f"{operation.name!r} takes {which} outside of a layer, which would be recorded as a "
        "constant. Read it in the `call` of a layer."
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
