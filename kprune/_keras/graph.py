"""The graph of a functional model, and operations as nodes in it."""

from keras.src import backend
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops import core, nn
from keras.src.ops import numpy as _numpy
from keras.src.ops.symbolic_arguments import SymbolicArguments


def is_functional(operation):
    """Whether an operation is a functional model; a Sequential one only holds such a model.

    Needs `keras.src.models.functional.Functional`: `keras.Model(inputs, outputs)` makes one, and
    no public name is its class.
    """
    return isinstance(operation, Functional)


def functional_class():
    """Return the class of functional models, to compare methods with. Needs as `is_functional`."""
    return Functional


def is_made_from_graph(kind):
    """Whether a class of functional models is constructed from inputs and outputs.

    Needs `functional_like_constructor` of `keras.src.models.functional`: by it `clone_model`
    decides whether a clone is of the class.
    """
    return functional_like_constructor(kind)


def functional_inside(model):
    """Return the functional model that a Sequential one holds; None before it is built.

    Needs `Sequential._functional`: its nodes are those of the calls of the layers.
    """
    return getattr(model, "_functional", None)


def nodes_by_depth(model):
    """Return the nodes of a functional model in the order of their calls, inputs included.

    A node has `operation`, `arguments` (`args`, `kwargs`, `keras_tensors`, `fill_in`), `outputs`
    and `is_input`. Needs `_nodes_by_depth`: the public `operations` has each operation once, and
    not its calls.
    """
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def call_nodes(operation):
    """Return the nodes of all calls of an operation, in whatever graphs, in their order.

    Needs `Operation._inbound_nodes`: the public `operation.input` is there for a single call only.
    """
    return list(operation._inbound_nodes)


def producer(tensor):
    """Return the operation whose call made a `keras.KerasTensor`.

    Needs `KerasTensor._keras_history`, the only link from a tensor to it.
    """
    return tensor._keras_history.operation


def has_mask(tensor):
    """Whether a `keras.KerasTensor` carries a mask, as the outputs of `Embedding` may.

    Needs `keras.src.backend.get_keras_mask`: masks travel on tensors, beside the graph.
    """
    return backend.get_keras_mask(tensor) is not None


def unconnected(operation):
    """Return the same operation, all its attributes shared, without its place in a graph.

    Needs `Operation._inbound_nodes` and `_outbound_nodes`; an operation that is no layer may not
    have a configuration to be made again from.
    """
    new = object.__new__(type(operation))  # `copy` goes by the configuration, if there is one.
    vars(new).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return new


def symbolic_arguments(*args, **kwargs):
    """Return the `arguments` of a node, for a call that is in no graph.

    Needs `keras.src.ops.symbolic_arguments`: nodes that are in no graph cannot be made.
    """
    return SymbolicArguments(*args, **kwargs)


def operation_class(name):
    """Return a class of operations that `keras.ops` makes behind its functions, such as "Reshape".

    `keras.ops.reshape` is a function; in a graph are operations, and their class tells what they
    do. Needs `keras.src.ops.numpy`, `.nn` and `.core`, which have the classes.
    """
    return next(getattr(part, name) for part in (_numpy, nn, core) if hasattr(part, name))
