"""A custom layer of the same class with fewer channels: which arguments say how many.

The configuration is differenced: the layer is made again with one number in it changed, and
which axes of which variables are shorter then says what the number counts. That the layer does
the same without the channels, its outputs prove.
"""

import dataclasses
import itertools
import numbers
import warnings

import keras
import numpy as np

from kprune.graphs.identity import identity_of
from kprune.graphs.layer_copy import configuration, copied_layer, initializers, pairs
from kprune.graphs.walk import nodes
from kprune.structured.opening import call_like, close, random_values
from kprune.structured.tensors import drop, zeroed

_JUST_ABOVE = 1e-3  # Of what one channel is: a ratio is rounded down by whoever makes an int of it.


@dataclasses.dataclass(frozen=True)
class Said:
    """What an argument of a layer says.

    Attributes:
        path: tuple, where it is in the configuration; () for what follows from the inputs.
        value: int or float, what it is.
        each: int or float, what one channel is of it.
        places: tuple of `(number of the variable, axis)`, where the channels are.
    """

    path: tuple
    value: float
    each: float
    places: tuple


def freeze_unsaid(graph, opening):
    """Freeze what a layer that must stay of its class cannot lose, by the reason why it must.

    Args:
        graph: the `ChannelGraph`.
        opening: an `Opening` of it that is `closed`.
    """
    said = [_roots(graph, opening.layer, one) for one in says(graph, opening)]
    said = np.concatenate([*said, np.zeros(0, int)])
    inside = [labels for v in opening.layer.weights for labels in graph.labels_along(v).values()]
    known = [graph.tensors.get(id(tensor)) for tensor in all_tensors(opening.graph)]
    inside += [t.labels for t in known if t is not None and t.labels is not None]
    stays = np.concatenate([said, np.array(list(graph.labels.frozen()), int)])
    for labels in inside:
        unsaid = labels[~np.isin(graph.labels.find(labels), stays)]
        graph.labels.freeze(
            unsaid,
            f"{graph.named(opening.layer)}: no argument of its class says their number, and what "
            f"is inside cannot take its place, for {opening.closed}",
        )


def all_tensors(model):
    """Return the tensors in a model's graph."""
    return [*model.inputs, *(tensor for node in nodes(model) for tensor in node.outputs)]


def smaller_config(graph, opening, gone):
    """Return what to change in a layer's configuration for fewer channels, or None.

    Args:
        graph: the `ChannelGraph`.
        opening: an `Opening` of it.
        gone: int array, representatives of the labels that leave.

    Returns:
        Dict from a path in the configuration to the new value; None if no values make a layer
        with the weights that stay.
    """
    changes = {}
    for one in says(graph, opening):
        count = len(np.intersect1d(_roots(graph, opening.layer, one), gone))
        if one.path and count:
            changes[one.path] = _value(one, count)
    if None in changes.values():
        return None
    new = made(opening.node, changes, _shapes(graph, opening, gone))
    return changes if new is not None and _fits(graph, opening.layer, new, gone) else None


def _value(said, count):
    """The value of an argument for so many channels less; None if there is none."""
    value = said.value - count * said.each
    if isinstance(said.value, numbers.Integral):
        return int(value) if value == int(value) else None
    return value + _JUST_ABOVE * said.each


def says(graph, opening):
    """Return a list of `Said`: which channels of an `Opening`'s layer its arguments count."""
    return _known(graph, opening, _says)


def is_copied(graph, opening):
    """Whether a copy of a layer, made from its configuration, does what the layer does."""
    return _known(graph, opening, _is_copied)


def _known(graph, opening, function):
    """What a function says of an opening, which is the same for all layers that are alike."""
    layer = opening.layer
    key = function, identity_of(layer), tuple(opening.shapes), _pattern(graph, layer)
    if key not in graph.said:
        graph.said[key] = function(graph, opening)
    return graph.said[key]


def _says(graph, opening):
    if not is_copied(graph, opening):
        return []
    axes = [graph.labels_along(v).values() for v in opening.layer.weights]
    counts = {len(np.unique(graph.labels.find(labels))) for found in axes for labels in found}
    found = []
    for path, value in [((), 0), *_numbers(configuration(opening.layer))]:
        if isinstance(value, numbers.Integral) and not any(value % n == 0 for n in counts if n > 1):
            continue
        said = (_difference(graph, opening, path, *pair) for pair in _others(path, value))
        proved = (one for one in said if one is not None and _proved(graph, opening, one))
        found += itertools.islice(proved, 1)
    return found


def _pattern(graph, layer):
    """How the labels of a layer's variables relate, whatever they are."""
    axes = [
        (i, axis, graph.labels.find(labels))
        for i, variable in enumerate(layer.weights)
        for axis, labels in graph.labels_along(variable).items()
    ]
    if not axes:
        return ()
    everything = np.concatenate([labels for *_, labels in axes])
    codes = np.unique(everything, return_inverse=True)[1]
    return tuple(axis[:2] for axis in axes), codes.tobytes()


def _numbers(config):
    """The numbers in a configuration that may count something, with their paths."""
    for name, entry in config.items():
        several = isinstance(entry, list | tuple)
        for path, value in (
            [((name, i), v) for i, v in enumerate(entry)] if several else [((name,), entry)]
        ):
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if is_number and value > 0 and (value > 1 or isinstance(value, float)):
                yield path, value


def _difference(graph, opening, path, value, other):
    """What one argument says, by making the layer with another value of it; None if nothing."""
    if not path:
        return _of_the_inputs(graph, opening)
    layer = opening.layer
    new = made(opening.node, {path: other}, opening.shapes)
    shorter = None if new is None else _shorter(layer, new)
    if not shorter:
        return None
    (i, axis), less = next(iter(shorter.items()))
    labels = graph.labels_along(layer.weights[i]).get(axis)
    if labels is None:
        return None
    roots = np.unique(graph.labels.find(labels))
    count = less * len(roots) / len(labels)
    if roots[0] < 0 or count != int(count) or not 0 < count < len(roots):
        return None
    each = (value - other) / int(count)
    if isinstance(value, numbers.Integral):
        if each != int(each):
            return None
        each = int(each)
    said = Said(path, value, each, tuple(shorter))
    return said if _fits(graph, layer, new, roots[-int(count) :]) else None


def _others(path, value):
    """Pairs of an argument's value and another one to try."""
    if not path:
        return [(value, value)]
    if isinstance(value, numbers.Integral):
        smaller = dict.fromkeys((value - 1, value - 2, value - 8, value // 2))
        return [(value, other) for other in smaller if other > 0]
    return [(value, value / 2)]


def _of_the_inputs(graph, opening):
    """The channels that the layer, configured as it is, has as many of as its inputs."""
    labels = [graph.tensors[id(tensor)].labels for tensor in opening.graph.inputs]
    labels = [graph.labels.find(one) for one in labels if one is not None]
    roots = np.unique(np.concatenate([*labels, np.zeros(0, int)]))
    roots = roots[roots >= 0]
    gone = roots[len(roots) // 2 :]
    if not 0 < len(gone) < len(roots):
        return None
    new = made(opening.node, {}, _shapes(graph, opening, gone))
    if new is None or not _fits(graph, opening.layer, new, gone):
        return None
    places = [
        (i, axis)
        for i, variable in enumerate(opening.layer.weights)
        for axis, own in graph.labels_along(variable).items()
        if np.isin(graph.labels.find(own), roots).any()
    ]
    return Said((), 0, 0, tuple(places))


def _roots(graph, layer, said):
    """The representatives of the channels that an argument counts."""
    found = [graph.labels_along(layer.weights[i])[axis] for i, axis in said.places]
    return np.unique(graph.labels.find(np.concatenate(found))) if found else np.zeros(0, int)


def made(node, changes, shapes):
    """Return the layer of a node once more, called like it; None if it cannot be made.

    Args:
        node: a node whose operation is a `keras.Layer`.
        changes: dict from a path in the layer's configuration to the new value.
        shapes: list of the shapes of the tensors that it is called on.
    """
    layer = node.operation

    def change(config):
        for path, value in changes.items():
            set_entry(config, path, value)
        config.update(dict.fromkeys(initializers(layer).keys() & config.keys(), "zeros"))

    try:
        with warnings.catch_warnings():  # Keras warns of what does not fit, which is tried here.
            warnings.simplefilter("ignore")
            new = copied_layer(layer, change)
            call_like(node, new, shapes)
    except Exception:
        return None
    return new if len(new.weights) == len(layer.weights) else None


def _shorter(layer, new):
    """Where a layer's variables are shorter, and by how much; None where one is longer."""
    found = {}
    for i, (old, variable) in enumerate(zip(layer.weights, new.weights)):
        if len(old.shape) != len(variable.shape):
            return None
        for axis, (n, other) in enumerate(zip(old.shape, variable.shape)):
            if other > n:
                return None
            if other < n:
                found[i, axis] = n - other
    return found


def _fits(graph, layer, new, gone):
    """Whether a new layer's variables have the shapes of what stays of the old ones."""
    return all(
        tuple(int(kept.sum()) for kept in graph.kept(old, gone)) == tuple(variable.shape)
        for old, variable in zip(layer.weights, new.weights)
    )


def _shapes(graph, opening, gone):
    """The shapes of an opening's inputs without some channels."""
    shapes = []
    for tensor, shape in zip(opening.graph.inputs, opening.shapes):
        axis, kept = graph.kept_of_tensor(tensor, gone)
        shape = list(shape)
        if axis is not None:
            shape[axis] = int(kept.sum())
        shapes.append(tuple(shape))
    return shapes


def _is_copied(graph, opening):
    nothing = np.zeros(0, int)
    copies = [made(opening.node, {}, opening.shapes) for _ in range(2)]
    if None in copies or not all(_fits(graph, opening.layer, one, nothing) for one in copies):
        return False
    _fill_both(graph, opening.layer, *copies, nothing)
    try:
        return _same_outputs(graph, opening, opening.layer, copies[0], nothing)
    except Exception:
        return False


def _proved(graph, opening, said):
    """Whether the layer without half of the channels does what it does with zeros for them."""
    layer = opening.layer
    roots = _roots(graph, layer, said)
    gone = roots[len(roots) // 2 :]
    if not set(graph.labels.inexact()).isdisjoint(roots.tolist()):
        return True  # There is no such equality; the shapes must do.
    changes = {said.path: _value(said, len(gone))} if said.path else {}
    if None in changes.values():
        return False
    masked = made(opening.node, {}, opening.shapes)
    new = made(opening.node, changes, _shapes(graph, opening, gone))
    if masked is None or new is None or not _fits(graph, layer, new, gone):
        return False
    _fill_both(graph, layer, masked, new, gone)
    try:
        return _same_outputs(graph, opening, masked, new, gone)
    except Exception:
        return False


def _fill_both(graph, layer, masked, new, gone):
    """Give one copy the layer's weights with zeros for some channels, and one those that stay."""
    random = np.random.default_rng(0)
    for old, variable, other in zip(layer.weights, masked.weights, new.weights):
        value = keras.ops.convert_to_numpy(old)
        if len(gone) and keras.backend.is_float_dtype(old.dtype):
            # Weights that begin at zero, as of a branch that is to grow, would prove nothing.
            value = value + (0.1 * random.uniform(size=value.shape)).astype(value.dtype)
        kept = graph.kept(old, gone)
        other.assign(cut_value(value, kept))
        for axis, stays in enumerate(kept):
            value = zeroed(value, axis, stays)
        variable.assign(value)
    run_after(graph, layer, new, gone)


def run_after(graph, layer, new, gone):
    """Let the rules of a layer, and of those inside, have their say on the smaller layer."""
    for old, part in pairs(layer, new):
        record = graph.layers.get(id(old))
        for (path, _), (labels, function) in (record.after if record else {}).items():
            share = float(np.mean(~np.isin(graph.labels.find(labels), gone)))
            inner = part
            for name in path[::2]:  # A path goes from "layer" to "config" to "layer" ...
                inner = getattr(inner, name)
            if share < 1:
                function(inner, share)


def cut_value(value, kept):
    """Return an array without the positions of its axes that do not stay."""
    for axis, stays in enumerate(kept):
        value = drop(value, axis, stays)
    return value


def _same_outputs(graph, opening, masked, new, gone):
    values = random_values(opening.node, opening.shapes)
    kept = [graph.kept_of_tensor(tensor, gone) for tensor in opening.graph.inputs]
    expected = call_like(opening.node, masked, [zeroed(v, *one) for v, one in zip(values, kept)])
    got = call_like(opening.node, new, [drop(v, *one) for v, one in zip(values, kept)])
    kept = [graph.kept_of_tensor(tensor, gone) for tensor in opening.graph.outputs]
    expected = [drop(keras.ops.convert_to_numpy(one), *stays) for one, stays in zip(expected, kept)]
    return all(map(close, expected, got))


def set_entry(config, path, value):
    """Set an entry of a layer's configuration; one of several sizes is in a list."""
    *parents, last = path
    for name, following in zip(parents, path[1:]):
        if isinstance(following, int):
            sizes = config[name]
            config[name] = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
        config = config[name]
    config[last] = value
