"""Weights that a custom layer has itself, where they go with the channels one to one."""

import keras
import numpy as np

from kprune._keras.graph import operation_class
from kprune._keras.layers import own_variables
from kprune.structured.opening import call_like, close, random_values
from kprune.structured.reasons import Unsafe
from kprune.structured.same_class import made
from kprune.structured.tensors import drop

_SCALES = tuple(map(operation_class, ("Multiply", "TrueDivide", "Divide")))
_ADDS = tuple(map(operation_class, ("Add", "Subtract")))


def own_weight(operation, arguments):
    """Return the variable that an elementwise operation takes beside one tensor, or None."""
    leaves = keras.tree.flatten((arguments.args, arguments.kwargs))
    found = [leaf for leaf in leaves if isinstance(leaf, keras.Variable)]
    if not isinstance(operation, _SCALES + _ADDS) or len(found) != 1:
        return None
    return found[0] if len(arguments.keras_tensors) == 1 else None


def follow_own_weight(call, operation, variable):
    """Return the outputs of an elementwise operation on a tensor and a variable.

    Args:
        call: a `Call`, of the layer that has the variable and on the operation's arguments.
        operation: the `keras.Operation`.
        variable: the `keras.Variable`.

    Raises:
        Unsafe: the result has other channels than the tensor.
    """
    tensor = call.inputs[0]
    axis, rank = tensor.axis, len(variable.shape)
    if axis is None:
        return call.output()
    if call.output_shape[axis] != len(tensor.labels):
        raise Unsafe("makes more channels of one")
    if -axis <= rank and variable.shape[axis] != 1:
        along = {axis: tensor.labels}
        call.use(variable, along=along, scales=isinstance(operation, _SCALES))
    return call.output(axis, tensor.labels)


def follow_own_weights(call, axes):
    """Return the output of a layer of which `axes_by_trying` says where the channels are."""
    (tensor,) = (tensor for tensor in call.inputs if tensor.axis is not None)
    for variable, (axis, scales) in zip(call.layer.weights, axes):
        if axis is not None:
            call.use(variable, along={axis: tensor.labels}, scales=scales)
    return call.output(-1, tensor.labels)


def axes_by_trying(node, tensors):
    """Say where a layer with weights of its own has the channels of its input, by trying.

    The layer is made again for fewer channels. Which axes of its weights are shorter then are
    those of channels if the layer does the same but for those that are gone, whichever these are.
    So nothing need be known of its `call`.

    Args:
        node: a node whose operation is a custom `keras.Layer`.
        tensors: list of `Tensor`s, for the tensors that it is called on.

    Returns:
        List, for each of the layer's weights `(axis, whether it scales)`, the axis None where
        there are no channels; or None if channels of the input are not those of the output.
    """
    layer, channels = node.operation, [t for t in tensors if t.axis is not None]
    if len(own_variables(layer)) != len(layer.weights) or len(node.outputs) != 1:
        return None
    if len(channels) != 1 or channels[0].axis != -1 or len(channels[0].labels) == 1:
        return None
    try:
        return _Trial(node, tensors).axes()
    except Exception:
        return None


class _Trial:
    """A layer with values for its weights and inputs, to be compared with smaller ones."""

    def __init__(self, node, tensors):
        random = np.random.default_rng(0)
        self.node, self.layer = node, node.operation
        self.place = next(i for i, tensor in enumerate(tensors) if tensor.axis is not None)
        self.n = len(tensors[self.place].labels)
        self.shapes = [(1, *tensor.shape[1:]) for tensor in tensors]
        self.inputs = random_values(node, self.shapes)
        # Weights may begin all alike.
        weights = map(keras.ops.convert_to_numpy, self.layer.weights)
        self.weights = [
            value + (0.1 * random.uniform(size=value.shape)).astype(value.dtype)
            if keras.backend.is_float_dtype(variable.dtype)
            else value
            for variable, value in zip(self.layer.weights, weights)
        ]

    def axes(self):
        """What `axes_by_trying` returns; raises whatever the layer raises."""
        (whole,) = self._outputs(np.ones(self.n, bool), [None] * len(self.weights))
        fewer = made(self.node, {}, self._shapes(self.n - self.n // 2))
        axes = [self._shorter(*pair) for pair in zip(self.layer.weights, fewer.weights)]
        for kept in self._halves():
            (got,) = self._outputs(kept, axes)
            if whole.shape[-1] != self.n or not close(drop(whole, -1, kept), got):
                return None
        return [(axis, axis is not None and self._scales(i, whole)) for i, axis in enumerate(axes)]

    def _shapes(self, n):
        return [
            (*shape[:-1], n) if i == self.place else shape for i, shape in enumerate(self.shapes)
        ]

    def _shorter(self, variable, fewer):
        """The axis along which a variable has as many less as the input, None if it is the same."""
        pairs = enumerate(zip(variable.shape, fewer.shape, strict=True))
        (axis, (long, short)), *others = [(i, n) for i, n in pairs if n[0] != n[1]] or [
            (None, (self.n, self.n - self.n // 2))
        ]
        if others or (long, short) != (self.n, self.n - self.n // 2):
            raise ValueError("its weights do not go with its input")
        return axis

    def _halves(self):
        """Which channels stay, in some ways that leave as many as were tried."""
        kept = np.arange(self.n) >= self.n // 2
        yield from (kept, kept[::-1], np.random.default_rng(self.n).permutation(kept))

    def _outputs(self, kept, axes, factors=None):
        """What a layer of the channels that are kept computes."""
        new = made(self.node, {}, self._shapes(int(kept.sum())))
        for i, (variable, value, axis) in enumerate(zip(new.weights, self.weights, axes)):
            value = drop(value, axis, kept)
            variable.assign(value * factors[i] if factors else value)
        inputs = [
            drop(value, -1, kept) if i == self.place else value
            for i, value in enumerate(self.inputs)
        ]
        return map(keras.ops.convert_to_numpy, call_like(self.node, new, inputs))

    def _scales(self, i, whole):
        """Whether twice a variable makes twice the output."""
        factors = [2 if i == j else 1 for j in range(len(self.weights))]
        (twice,) = self._outputs(np.ones(self.n, bool), [None] * len(self.weights), factors)
        return close(2 * whole, twice)
