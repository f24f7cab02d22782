"""Custom layers, opened: what their `call` does, followed like a nested model."""

import dataclasses
import functools
import itertools

import keras
import numpy as np

from kprune._keras.layers import flatten_layers, own_variables, takes_training
from kprune._keras.recording import Given, has_mask, of_any_batch, recorded_call
from kprune.graphs.walk import call_arguments, nodes, operations
from kprune.structured.reasons import Unsafe

_TOLERANCE = 1e-4


@dataclasses.dataclass(eq=False)
class Opening:
    """What one call of a custom layer does.

    Attributes:
        layer: the `keras.Layer`.
        node: the node of the call.
        graph: a `keras.Model` of the operations in the call, on the layers inside the layer.
        shapes: list of the shapes of the call's tensors, the batch 1, no dimension dynamic.
        closed: str, why the graph cannot stand in a model in the layer's place; None if it can.
    """

    layer: keras.Layer
    node: object
    graph: keras.Model
    shapes: list
    closed: str | None


def call_like(node, layer, values):
    """Call another layer as a node's is called, at inference; return a flat list.

    Args:
        node: a node whose operation is a `keras.Layer`.
        layer: the other one.
        values: list of arrays for the tensors of the call, or of the shapes of symbolic ones.
    """
    tensors = [
        keras.KerasTensor(value, dtype=tensor.dtype)
        if isinstance(value, tuple)
        else keras.ops.cast(value, tensor.dtype)
        for value, tensor in zip(values, node.arguments.keras_tensors)
    ]
    args, kwargs = call_arguments(node, tensors)
    if takes_training(layer):
        kwargs = {**kwargs, "training": False}
    return keras.tree.flatten(layer(*args, **kwargs))


def opened(node, shapes):
    """Record the call of a node.

    Recorded with dynamic dimensions where `call` can be, the graph is as good as the layer.
    Where `call` computes with sizes, it is recorded with all of them fixed; the batch, which is 1
    then, is left open again.

    Args:
        node: a node whose operation is a `keras.Layer`.
        shapes: list, for each tensor of the call its shape, the batch None and nothing else.

    Raises:
        Unsafe: `call` cannot be traced.
    """
    layer = node.operation
    fixed = [(1, *shape[1:]) for shape in shapes]
    own = [tuple(tensor.shape) for tensor in node.arguments.keras_tensors]
    inside = [part for part in flatten_layers(layer, include_self=False) if is_custom(part)]
    errors, found = [], []
    ways = itertools.product((own, fixed), ([], inside) if inside else ([],), (True, False))
    for sizes, inline, with_given in ways:
        record = functools.partial(_recorded, node, sizes, inline, with_given)
        try:
            graph = of_any_batch(record())
        except Exception as error:
            errors.append(error)
            continue
        opening = Opening(layer, node, graph, fixed, _closed(node, graph, sizes, inline, record))
        # Of a batch that was fixed something may be left in what stays of its class anyway.
        batch = 2 if opening.closed is None or sizes is own else 1
        if _does_the_same(opening, batch):
            return opening
        opening.closed = opening.closed or "its `call` cannot be recorded for batches of any size"
        found.append(opening)
    if not found:
        raise Unsafe.because("its `call` cannot be traced", errors[-1]) from errors[-1]
    return found[-1]


def _does_the_same(opening, batch):
    """Whether the graph of a call computes what the layer computes."""
    values = random_values(opening.node, opening.shapes, batch)
    try:
        one = call_like(opening.node, opening.layer, values)
        tensors = [keras.ops.cast(v, t.dtype) for v, t in zip(values, opening.graph.inputs)]
        other = keras.tree.flatten(opening.graph(tensors, training=False))
    except Exception:
        return False
    return all(map(close, one, other))


def random_values(node, shapes, batch=2):
    """Return random arrays for the tensors that the layer of a node is called on."""
    random, values = np.random.default_rng(0), []
    for shape, tensor in zip(shapes, node.arguments.keras_tensors):
        shape = (batch, *shape[1:])
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        # What is a mask lets all through; what is a token exists.
        values.append(random.normal(size=shape) if is_float else np.ones(shape))
    return values


def close(one, other):
    """Whether two tensors are the same but for rounding."""
    one, other = (np.asarray(keras.ops.convert_to_numpy(x), "float32") for x in (one, other))
    scale = max(1.0, float(np.max(np.abs(one), initial=0.0)))
    return one.shape == other.shape and np.allclose(one, other, atol=_TOLERANCE * scale)


def is_custom(operation):
    """Whether an operation's class is none of Keras' own."""
    return type(operation).__module__.partition(".")[0] != "keras"


def _recorded(node, shapes, inline, with_given, training=None):
    args, kwargs = call_arguments(node, _tensors(node, shapes))
    return recorded_call(node.operation, args, kwargs, training, inline, with_given)


def _tensors(node, shapes):
    tensors = node.arguments.keras_tensors
    return [keras.KerasTensor(shape, dtype=t.dtype) for shape, t in zip(shapes, tensors)]


def _closed(node, graph, sizes, inline, record):
    """Why a graph is not all that the layer is, or None."""
    layer = node.operation
    own = [tuple(tensor.shape) for tensor in node.arguments.keras_tensors]
    if sizes != own and any(None in shape[1:] for shape in own):
        return "its `call` computes with sizes that the model leaves open"
    for part in (layer, *inline):
        if own_variables(part):
            return f"{part.name!r} has weights of its own ({own_variables(part)[0].name})"
    alone = [one for one in operations(graph) if isinstance(one, Given)]
    if alone or unused_variables(layer, graph):
        return "it computes with weights before it sees its inputs"
    if any(map(has_mask, node.arguments.keras_tensors)):
        return "it is given a mask"
    if takes_training(layer):
        try:
            other = record(training=True)
        except Exception:
            return "its `call` cannot be traced in training"
        if calls(other) != calls(graph):
            return "its `call` does something else in training"
    return None


def unused_variables(layer, graph):
    """Return the variables of a layer that nothing in the graph of its call has."""
    called = [one for one in operations(graph) if isinstance(one, keras.Layer)]
    used = {id(variable) for one in called for variable in one.variables}
    return [variable for variable in layer.variables if id(variable) not in used]


def calls(graph):
    """Return what a graph calls, in the order of the calls, as a tuple."""
    return tuple(
        id(node.operation) if isinstance(node.operation, keras.Layer) else type(node.operation)
        for node in nodes(graph)
    )
