"""Weights that a custom layer has itself, where they go with the channels one to one."""

import keras

from kprune._keras.graph import operation_class
from kprune.structured.reasons import Unsafe

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
