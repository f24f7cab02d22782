"""Put other layers in the places of a model's layers, and leave all else as it is."""

import keras

from kprune._keras import graph, layers, tracking
from kprune.graphs.rebuild import build_again

# What a class may define on top of a graph of layers, and loses when only the graph is kept.
_BEHAVIOUR = ("call", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def replace_layers(model, replacement, inside):
    """Return `model` with `replacement(layer)` in the place of every layer in it.

    The layers that stay, and their variables, are those of the old model. A Sequential or
    functional model in which something changes is rebuilt from its graph, uncompiled;
    other layers and models, which keep their parts in attributes, change in place.

    Args:
        model: a `keras.Layer`.
        replacement: function from a layer to a layer; the same one, to leave it.
        inside: function from a layer that is left to a bool, whether its parts are visited.

    Raises:
        ValueError: a model that cannot be rebuilt, or whose parts are not in its
            attributes. Nothing has changed then.
    """
    visited, in_place = {}, []

    def visit(layer):
        if id(layer) not in visited:
            visited[id(layer)] = layer  # Layers may refer to each other in circles.
            visited[id(layer)] = change(layer)
        return visited[id(layer)]

    def change(layer):
        new = replacement(layer)
        if new is not layer or not inside(layer):
            return new
        parts = _parts(layer)
        changed = {id(part): new for part in parts if (new := visit(part)) is not part}
        if not changed:
            return layer
        if graph.is_functional(layer) or isinstance(layer, keras.Sequential):
            return _rebuilt(layer, changed)
        _check_attributes(layer, parts, changed)
        in_place.append((layer, parts, changed))
        return layer

    new = visit(model)
    for owner, parts, changed in in_place:
        _change_attributes(owner, parts, changed)
    if in_place:
        for layer in layers.flatten_layers(new):
            tracking.forget_derived(layer)
    return new


def _parts(layer):
    if graph.is_functional(layer):
        return [part for part in layer.operations if isinstance(part, keras.Layer)]
    return layer.layers if isinstance(layer, keras.Sequential) else layers.sublayers(layer)


def _rebuilt(model, changed):
    is_sequential = isinstance(model, keras.Sequential)
    plain = keras.Sequential if is_sequential else graph.functional_class()
    lost = [name for name in _BEHAVIOUR if getattr(type(model), name) is not getattr(plain, name)]
    if lost and (is_sequential or not graph.is_made_from_graph(type(model))):
        raise ValueError(
            f"{type(model).__name__} defines {', '.join(lost)} on top of a graph of layers, which "
            "a model rebuilt from that graph would not have. Wrap its layers where they are "
            "made, one by one, or prune it with the kprune.Pruning callback, which leaves the "
            f"model as it is. Received: {model.name!r}"
        )
    if is_sequential and graph.functional_inside(model) is None:  # Not built.
        parts = [changed.get(id(layer), layer) for layer in model.layers]
        return keras.Sequential(parts, name=model.name, trainable=model.trainable)

    def place(node, args, kwargs):
        return changed.get(id(node.operation), node.operation), args, kwargs

    return build_again(
        model, place, kind=type(model) if graph.is_made_from_graph(type(model)) else plain
    )


def _layers_in(value):
    if isinstance(value, keras.Layer):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _layers_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _layers_in(item)


def _check_attributes(owner, parts, changed):
    found = {
        id(layer) for value in layers.attributes(owner).values() for layer in _layers_in(value)
    }
    lost = [part.name for part in parts if id(part) in changed and id(part) not in found]
    if lost:
        raise ValueError(
            f"The layers {lost} of {owner.name!r} are not in its attributes, nor in lists, tuples "
            "or dicts there, so that they cannot be replaced. Wrap them where they are made, or "
            "prune with the kprune.Pruning callback, which leaves the model as it is."
        )


def _change_attributes(owner, parts, changed):
    for part in parts:
        if id(part) in changed:
            tracking.replace_sublayer(owner, part, changed[id(part)])
    for name, value in layers.attributes(owner).items():
        new = _changed_value(value, changed)
        if new is not value:
            setattr(owner, name, new)


def _changed_value(value, changed):
    if isinstance(value, keras.Layer):
        return changed.get(id(value), value)
    if isinstance(value, list | dict):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new = _changed_value(item, changed)
            if new is not item:
                value[key] = new
    elif isinstance(value, tuple):
        items = [_changed_value(item, changed) for item in value]
        if any(new is not item for new, item in zip(items, value)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
