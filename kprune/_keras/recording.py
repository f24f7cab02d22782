"""The call of a layer as a graph of the layers and operations in it."""

import contextlib
import functools
import inspect
import threading

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.variables import Variable

from kprune._keras.graph import nodes_by_depth, operation_class
from kprune._keras.layers import flatten_layers, takes_training
from kprune._system.replaced import removed, replaced

_lock = threading.RLock()
_OPERATORS = {
    "__add__": keras.ops.add,
    "__sub__": keras.ops.subtract,
    "__mul__": keras.ops.multiply,
    "__truediv__": keras.ops.divide,
    "__pow__": keras.ops.power,
    "__matmul__": keras.ops.matmul,
}


class Given(keras.Operation):
    """A tensor that does not depend on what a graph is called on, once for each of a batch."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def call(self, x):
        shape = (keras.ops.shape(x)[0], *self.value.shape[1:])
        return keras.ops.broadcast_to(self.value, shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], *self.value.shape[1:]), dtype=self.value.dtype)


def recorded_call(layer, args, kwargs, training=None, inline=(), with_given=False):
    """Return what a layer does in a call, as a functional model of what it calls in its turn.

    Its layers are the very layers inside the layer; neither these nor the layer remember the
    recording. Names may repeat, as names inside layers may. Needs `Layer.call` to be called
    without what `__call__` does around it, and `Operation._inbound_nodes` and `_outbound_nodes`,
    in which operations remember the graphs that they are in.

    Args:
        layer: a built `keras.Layer`.
        args: tuple of the call's arguments, `keras.KerasTensor`s among them.
        kwargs: dict of its keyword arguments.
        training: what `call` is told, if it takes that.
        inline: list of layers inside whose own calls are recorded as part of this one; for those
            that return something else than tensors.
        with_given: whether layers inside are also recorded where they are called on something
            that does not depend on the inputs, as an embedding of positions is: on a `Given`. What
            comes out has a batch, which it had not.

    Returns:
        A `keras.Model`; its inputs are the tensors among the arguments, in the order of
        `keras.tree.flatten((args, kwargs))`.

    Raises:
        Exception: whatever `call` raises where it cannot be traced.
        ValueError: an output that does not depend on the inputs.
    """
    given = (tuple(args), dict(kwargs))
    # In the order of `flatten`, which is not everywhere that of `map_structure`.
    tensors = [leaf for leaf in keras.tree.flatten(given) if isinstance(leaf, keras.KerasTensor)]
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in tensors]
    called = {id(leaf): _as_called(layer, new) for leaf, new in zip(tensors, inputs)}
    args, kwargs = keras.tree.map_structure(lambda leaf: called.get(id(leaf), leaf), given)
    names = list(inspect.signature(layer.call).parameters)
    if takes_training(layer) and "training" not in names[: len(args)]:
        kwargs["training"] = training
    with _forgotten(layer), _traced(inline, inputs[0] if with_given else None):
        outputs = layer.call(*args, **kwargs)
        for output in keras.tree.flatten(outputs):
            if not isinstance(output, keras.KerasTensor):
                raise ValueError("an output does not depend on the inputs")
        with _unique_names(outputs):
            return keras.Model(inputs, outputs, name=layer.name)


def _as_called(layer, tensor):
    """The tensor in the type that `__call__` hands on to `call`."""
    casts = layer.autocast and keras.backend.is_float_dtype(tensor.dtype)
    if not casts or tensor.dtype == layer.compute_dtype:
        return tensor
    return keras.ops.cast(tensor, layer.compute_dtype)


@contextlib.contextmanager
def _forgotten(layer):
    """Have a layer and what is inside forget the calls that are made meanwhile.

    A class that takes more arguments than its parent, and has the parent's `compute_output_spec`,
    can be called all the same: then its `call` says what comes out.
    """
    parts = flatten_layers(layer)
    before = [(part, len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]
    try:
        for part in parts:
            vars(part)["compute_output_spec"] = functools.partial(_output_spec, part)
        yield
    finally:
        for part, inbound, outbound in before:
            vars(part).pop("compute_output_spec", None)
            del part._inbound_nodes[inbound:]
            del part._outbound_nodes[outbound:]


@contextlib.contextmanager
def _traced(inlined, source):
    """Have calls of some layers run their `call` and nothing else, and variables meet tensors.

    With a source, a tensor of the graph, layers with weights are called on tensors of it alone.

    A variable on the left of an operator computes at once, with its value, which a symbolic
    tensor on the right is not for; and so does an array of JAX, which asks a symbolic tensor for
    its `__jax_array__` before it lets that compute. Needs `keras.Layer.__call__`, the operators
    of `keras.Variable` and `keras.KerasTensor.__jax_array__`, which have no hooks. All threads
    are affected; scopes take turns.
    """
    known, original = {id(layer) for layer in inlined}, keras.Layer.__call__

    @functools.wraps(original)
    def call(layer, *args, **kwargs):
        if id(layer) in known:
            return layer.call(*args, **kwargs)
        if source is not None and layer.weights and not _symbolic((args, kwargs)):
            args = keras.tree.map_structure(functools.partial(_given, source), args)
        return original(layer, *args, **kwargs)

    with _lock, contextlib.ExitStack() as stack:
        stack.enter_context(replaced(keras.Layer, "__call__", call))
        for name, function in _OPERATORS.items():
            own = getattr(Variable, name)
            stack.enter_context(replaced(Variable, name, _operator(own, function)))
        stack.enter_context(removed(keras.KerasTensor, "__jax_array__"))
        yield


def _symbolic(structure):
    return any(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(structure))


def _given(source, value):
    """An argument of a layer's call as a tensor of a graph, with a batch in front."""
    if not keras.ops.is_tensor(value):
        return value
    return Given(value if value.shape[:1] == (1,) else value[None])(source)


def _operator(own, function):
    def operator(variable, other):
        if isinstance(other, keras.KerasTensor):
            return function(variable, other)
        return own(variable, other)

    return operator


def _output_spec(layer, *args, **kwargs):
    try:
        return type(layer).compute_output_spec(layer, *args, **kwargs)
    except TypeError:
        return keras.Operation.compute_output_spec(layer, *args, **kwargs)


@contextlib.contextmanager
def _unique_names(outputs):
    """Have all operations that lead to some tensors names of their own, meanwhile."""
    operations, seen, waiting = [], set(), keras.tree.flatten(outputs)
    while waiting:
        history = waiting.pop()._keras_history
        if history.operation is None or (id(history.operation), history.node_index) in seen:
            continue
        seen.add((id(history.operation), history.node_index))
        operations.append(history.operation)
        node = history.operation._inbound_nodes[history.node_index]
        waiting += node.arguments.keras_tensors
    operations = list({id(operation): operation for operation in operations}.values())
    names = [operation.name for operation in operations]
    try:
        for i, operation in enumerate(operations):
            operation.name = f"{operation.name}_{i}"
        yield
    finally:
        for operation, name in zip(operations, names):
            operation.name = name


def of_any_batch(model):
    """Return the graph of a call that was recorded with a batch of 1 for batches of any size.

    Where a shape begins with the 1 of the batch, or with the None of one that is not known, it is
    left open. Needs `Reshape.newshape`: an operation of `keras.ops` has no configuration.
    """
    reshape = operation_class("Reshape")
    batch = model.inputs[0].shape[0]
    for node in nodes_by_depth(model):
        operation = node.operation
        if not isinstance(operation, reshape) or not operation.newshape:
            continue
        sizes = (-1, *node.outputs[0].shape[1:])
        if operation.newshape[0] == batch and None not in sizes:
            operation.newshape = sizes
    return model


def has_mask(tensor):
    """Whether a layer that made a `keras.KerasTensor` gave it a mask.

    Needs `keras.src.backend.common.masking`: a mask goes with its tensor, unseen.
    """
    return get_keras_mask(tensor) is not None
