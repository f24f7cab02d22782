"""Custom layers, opened: what their `call` does, followed like a nested model."""

import dataclasses
import itertools

import keras
import numpy as np

from kprune._keras.layers import flatten_layers, own_variables, takes_training
from kprune._keras.recording import has_mask, of_any_batch, recorded_call
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

    def call(self, layer, values, training=None):
        """Call another layer as this one is called, on other tensors; return a flat list."""
        args, kwargs = call_arguments(self.node, values)
        if training is not None and takes_training(layer):
            kwargs = {**kwargs, "training": training}
        return keras.tree.flatten(layer(*args, **kwargs))

    def call_on(self, layer, shapes):
        """Call another layer on `keras.KerasTensor`s of these shapes."""
        return self.call(layer, _tensors(self.node, shapes))


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
    for sizes, inline in itertools.product((own, fixed), ([], inside) if inside else ([],)):
        try:
            graph = of_any_batch(_recorded(node, sizes, None, inline))
        except Exception as error:
            errors.append(error)
            continue
        opening = Opening(layer, node, graph, fixed, _closed(node, graph, own, sizes, inline))
        # Of a batch that was fixed something may be left in what stays of its class anyway.
        if _does_the_same(opening) or (opening.closed is not None and sizes is fixed):
            return opening
        opening.closed = opening.closed or "its `call` cannot be recorded for batches of any size"
        found.append(opening)
    if not found:
        raise Unsafe.because("its `call` cannot be traced", errors[-1]) from errors[-1]
    return found[-1]


def _does_the_same(opening):
    """Whether the graph of a call computes what the layer computes."""
    values = random_values(opening, opening.graph.inputs)
    try:
        one = opening.call(opening.layer, values, training=False)
        other = keras.tree.flatten(opening.graph(values, training=False))
    except Exception:
        return False
    return all(map(close, one, other))


def random_values(opening, tensors, batch=2):
    """Return random tensors for the tensors that the layer of an `Opening` is called on."""
    random, values = np.random.default_rng(0), []
    for shape, tensor in zip(opening.shapes, tensors):
        shape = (batch, *shape[1:])
        if keras.backend.is_float_dtype(tensor.dtype):
            value = random.normal(size=shape)
        else:
            value = np.ones(shape)  # What is a mask lets all through; what is a token exists.
        values.append(keras.ops.cast(value, tensor.dtype))
    return values


def close(one, other):
    """Whether two tensors are the same but for rounding."""
    one, other = (np.asarray(keras.ops.convert_to_numpy(x), "float32") for x in (one, other))
    scale = max(1.0, float(np.max(np.abs(one), initial=0.0)))
    return one.shape == other.shape and np.allclose(one, other, atol=_TOLERANCE * scale)


def is_custom(operation):
    """Whether an operation's class is none of Keras' own."""
    return type(operation).__module__.partition(".")[0] != "keras"


def _recorded(node, shapes, training, inline):
    args, kwargs = call_arguments(node, _tensors(node, shapes))
    return recorded_call(node.operation, args, kwargs, training, inline)


def _tensors(node, shapes):
    tensors = node.arguments.keras_tensors
    return [keras.KerasTensor(shape, dtype=t.dtype) for shape, t in zip(shapes, tensors)]


def _closed(node, graph, own, sizes, inline):
    """Why a graph is not all that the layer is, or None."""
    layer = node.operation
    if sizes is not own and any(None in shape[1:] for shape in own):
        return "its `call` computes with sizes that the model leaves open"
    for part in (layer, *inline):
        if own_variables(part):
            return f"{part.name!r} has weights of its own ({own_variables(part)[0].name})"
    if unused_variables(layer, graph):
        return "it computes with weights before it sees its inputs"
    if any(map(has_mask, node.arguments.keras_tensors)):
        return "it is given a mask"
    if takes_training(layer):
        try:
            other = _recorded(node, sizes, True, inline)
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
