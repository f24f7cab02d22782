"""Operations whose arguments name a number of channels, rebuilt for fewer of them."""

import keras
import numpy as np

from kprune._keras.graph import operation_class
from kprune._keras.layers import takes_training


def resized(operation, args, kwargs, inputs, outputs):
    """Return `(operation, args, kwargs)` for a call on fewer channels.

    Args:
        operation: a `keras.Operation` without weights.
        args: list of the call's positional arguments.
        kwargs: dict of its keyword arguments.
        inputs: list of `(axis, kept)` for each tensor argument: the axis of its channels
            (below 0) and a bool array of those that stay; `(None, None)` without channels.
        outputs: list of the same for each output.

    Returns:
        The operation itself, with the same arguments, if they name no channels.
    """
    change = _CHANGES.get(type(operation))
    if change is None:
        return operation, args, kwargs
    return change(operation, args, kwargs, inputs, outputs)


def averages(operation, tensor):
    """Whether an operation is a mean or variance over the axis of a tensor's channels.

    As in a norm that is written out: of fewer channels it is another one, and still what it is.
    """
    if not isinstance(operation, _AVERAGES) or tensor.axis is None:
        return False
    axis = operation.axes if isinstance(operation, _MOMENTS) else operation.axis
    if axis is None:
        return False
    axes, rank = np.atleast_1d(axis), len(tensor.shape)
    return 0 not in axes % rank and tensor.axis % rank in axes % rank


def made_again(operation, **changes):
    """Return a new operation of the same name and configuration, but for some changes."""
    config = operation.get_config()
    name = changes.pop("name", operation.name)
    if "name" in config:
        config["name"] = name
    new = type(operation).from_config({**config, **changes})
    new.name = name
    return new


def _reshape(name, operation, args, kwargs, inputs, outputs):
    shape, (axis, kept) = list(getattr(operation, name)), outputs[0]
    if axis is not None and shape[axis] != -1:
        shape[axis] = int(kept.sum())
    return made_again(operation, **{name: tuple(shape)}), args, kwargs


def _split(operation, args, kwargs, inputs, outputs):
    axis, kept = inputs[0]
    if axis is None or operation.axis % len(args[0].shape) - len(args[0].shape) != axis:
        return operation, args, kwargs
    sections = operation.indices_or_sections
    if isinstance(sections, int):
        sections = [len(kept) // sections * i for i in range(1, sections)]
    counts = tuple(int(kept[:index].sum()) for index in sections)
    return made_again(operation, indices_or_sections=counts), args, kwargs


def _get_item(operation, args, kwargs, inputs, outputs):
    axis, kept = inputs[0]
    tensor, *rest = args
    key = rest[0] if rest else kwargs["key"]
    if axis is None:
        return operation, args, kwargs
    key = _narrowed(key if isinstance(key, tuple) else (key,), len(tensor.shape), axis, kept)
    return operation, [tensor, key], {}


def _narrowed(key, rank, axis, kept):
    """An indexing key whose slice along the axis of channels counts those that stay."""
    named = [item for item in key if item is not None and item is not Ellipsis]
    position, narrowed = 0, []
    for item in key:
        if item is Ellipsis:
            position += rank - len(named)
        elif item is not None:
            if position - rank == axis and isinstance(item, slice) and item.step in (None, 1):
                start, stop, _ = item.indices(len(kept))
                item = slice(int(kept[:start].sum()), int(kept[:stop].sum()), None)
            position += 1
        narrowed.append(item)
    return tuple(narrowed)


_MOMENTS = operation_class("Moments")
_AVERAGES = (*map(operation_class, ("Mean", "Var", "Std")), _MOMENTS)
_CHANGES = {
    keras.layers.Reshape: lambda *call: _reshape("target_shape", *call),
    operation_class("Reshape"): lambda *call: _reshape("newshape", *call),
    operation_class("BroadcastTo"): lambda *call: _reshape("shape", *call),
    operation_class("Split"): _split,
    operation_class("GetItem"): _get_item,
}


def call(operation, args, kwargs):
    """Call an operation for inference; return its outputs as a flat list of arrays."""
    if takes_training(operation):
        kwargs = {**kwargs, "training": False}
    outputs = keras.tree.flatten(operation(*args, **kwargs))
    return [np.asarray(keras.ops.convert_to_numpy(output)) for output in outputs]
