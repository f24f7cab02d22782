"""Scores of channels by their activations, summed up over batches of data."""

import keras
import numpy as np
from keras import ops

from kprune._keras.graph import producer
from kprune._system.errors import first_line
from kprune.graphs.walk import call_arguments, graph_of, walk
from kprune.structured.activation_places import places_of
from kprune.structured.block_scores import batch_of, cut_data

_BATCH = 64
_TOLERANCE = 1e-4
_SMALLEST = 1e-12


def activation_scores(graph, groups, criterion, data):
    """Return a score for each channel of each group; their mean in a group is 1.

    A channel's score is the mean of the criterion over its activations on the data; where it is
    seen in several places, each has the same say. The model itself does not change.

    Args:
        graph: the `ChannelGraph` of the model.
        groups: list of `ChannelGroup`s; frozen ones are not scored.
        criterion: a `Criterion` with `of_activations`.
        data: inputs of the model, `(x, y)`, or whatever else `fit` takes as its data.

    Returns:
        List of float arrays [channels].

    Raises:
        ValueError: no data, data that the model does not take, NaN on it; a group whose
            activations are not seen.
    """
    if data is None:
        raise ValueError(f"{criterion} needs activations: pass `data=x`, inputs of the model.")
    asked = [group for group in groups if not group.frozen]
    places = places_of(graph, asked)
    _check_seen(criterion, asked, places)
    wanted = {id(tensor): tensor for found in places for tensor, _ in found}
    means = _means(_Watcher(graph, criterion, wanted), data)
    places = [[one for one in found if id(one[0]) in means] for found in places]
    _check_seen(criterion, asked, places)
    scores = {
        id(group): _score(group, [(means[id(tensor)], index) for tensor, index in found])
        for group, found in zip(asked, places)
    }
    return [scores.get(id(group), np.ones(group.channels)) for group in groups]


def _score(group, found):
    """The mean over places of the scores there, each divided by their mean over channels."""
    total = np.zeros(group.channels)
    for means, index in found:
        inside = index >= 0
        sums = np.bincount(index[inside], means[inside], group.channels)
        score = sums / np.bincount(index[inside], minlength=group.channels)
        total += score / max(score.mean(), _SMALLEST)
    return total / len(found)


def _check_seen(criterion, groups, places):
    unseen = [group for group, found in zip(groups, places) if not found]
    if not unseen:
        return
    names = list(dict.fromkeys(group.name for group in unseen))
    raise ValueError(
        f"{criterion} scores channels by their activations, and those made by "
        f"{', '.join(names[:10])} cannot be seen: they stay inside a layer that is called as a "
        f"whole. Leave them as they are with layers={dict.fromkeys(names[:3])}, or choose another "
        "criterion."
    )


class _Watcher(keras.Model):
    """Runs a model, and returns what is asked about the tensors between its operations."""

    def __init__(self, graph, criterion, wanted):
        # The model's own layers say what they cast.
        super().__init__(dtype="float32", autocast=False, name="watcher")
        self.watched = graph.model  # Its variables are found through this.
        self._graph, self._criterion, self._wanted = graph, criterion, wanted

    def call(self, inputs):
        seen, nan = {}, {}
        self._run(self.watched, inputs, seen, nan)
        sums = [
            [sum(column[1:], column[0]) for column in zip(*seen[key])] if key in seen else []
            for key in self._wanted
        ]
        return sums, nan

    def _run(self, model, inputs, seen, nan):
        def note(tensor, value):
            if id(tensor) in self._wanted:
                seen.setdefault(id(tensor), []).append(self._asked(tensor, value))
            return value

        def step(node, given):
            args, kwargs = call_arguments(node, given)
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
            if id(node) in self._graph.openings:
                self._look_inside(self._graph.openings[id(node)], given, outputs, seen)
            if isinstance(node.operation, keras.Layer) and node.operation.weights:
                name = self._graph.name_of(node.operation)
                nan[name] = nan.get(name, 0.0) + _number_of_nan(outputs[0])
            return outputs

        def inside(node, given):
            opening = self._graph.openings.get(id(node))
            return None if opening is None or opening.closed is not None else opening.graph

        return walk(model, inputs, step, note, inside)

    def _look_inside(self, opening, given, outputs, seen):
        """See what is in a layer whose recorded call may do something else on these inputs."""
        inner = {}
        try:
            others = self._run(opening.graph, given, inner, {})
            differ = 1.0 - ops.cast(_all_close(outputs, others), "float32")
        except Exception:  # Of these sizes it cannot be called at all.
            return
        for key, found in inner.items():
            found = [(*asked[:2], asked[2] + differ) for asked in found]
            seen.setdefault(key, []).extend(found)

    def _asked(self, tensor, value):
        """Sums at each position, of how many numbers, and what is in doubt: nothing as yet."""
        axis = self._graph.tensors[id(tensor)].axis % len(value.shape)
        others = [i for i in range(len(value.shape)) if i != axis]
        value = ops.cast(value, "float32")
        scores = ops.cast(self._criterion(value), "float32")
        number = ops.cast(ops.size(value), "float32") / value.shape[axis]
        return ops.sum(scores, axis=others), number, ops.zeros(())


def _number_of_nan(value):
    value = ops.cast(value, "float32")
    return ops.sum(ops.cast(ops.isnan(value), "float32"))


def _all_close(one, other):
    close = True
    for a, b in zip(one, other, strict=True):
        a, b = ops.cast(a, "float32"), ops.cast(b, "float32")
        scale = _TOLERANCE * ops.maximum(1.0, ops.max(ops.abs(a)))
        both_nan = ops.logical_and(ops.isnan(a), ops.isnan(b))
        near = ops.logical_or(ops.abs(a - b) <= scale, both_nan)
        close = ops.logical_and(close, ops.all(near))
    return close


def _means(watcher, data):
    """From the ids of tensors to the mean scores at each position; no id for what is not seen."""
    model = watcher.watched
    before = [(v, np.array(ops.convert_to_numpy(v))) for v in model.non_trainable_variables]
    # On TensorFlow XLA would take longer to compile than it saves.
    watcher.compile(jit_compile="auto" if keras.backend.backend() == "jax" else False)
    totals = {}
    try:
        for inputs in _batches(model, data):
            sums, nan = _run_on(watcher, inputs)
            _check_no_nan(model, nan)
            for key, found in zip(watcher._wanted, sums):
                found = [np.asarray(array, "float64") for array in found]
                known = totals.get(key)
                totals[key] = found if known is None else [a + b for a, b in zip(known, found)]
    finally:
        for variable, value in before:  # Those of stateful layers.
            variable.assign(value)
    if not totals:
        raise ValueError("`data` has no example in it.")
    seen = {key: found for key, found in totals.items() if found and not found[2]}
    means = {key: sums / number for key, (sums, number, _) in seen.items()}
    _check_finite(watcher, means)
    return means


def _run_on(watcher, inputs):
    try:
        return watcher.predict_on_batch(inputs)
    except Exception as error:
        raise ValueError(
            f"{watcher.watched.name!r} could not be run on `data`: {first_line(error)}"
        ) from error


def _check_no_nan(model, counts):
    """Raise at NaN that a layer makes, which some activation functions turn into zero."""
    first = next((name for name, count in counts.items() if np.any(count)), None)
    if first is not None:
        raise _not_finite(model, first)


def _check_finite(watcher, means):
    for key, mean in means.items():
        if not np.isfinite(mean).all():
            name = watcher._graph.name_of(producer(watcher._wanted[key]))
            raise _not_finite(watcher.watched, name)


def _not_finite(model, name):
    return ValueError(
        f"Activations of {model.name!r} on `data` are NaN or infinite, among others in {name!r}: "
        "check the data and the weights."
    )


def _batches(model, data):
    """Yield lists of arrays, one for each input of the model, that fit it."""
    inputs = graph_of(model).inputs
    if isinstance(data, tuple) and len(data) in (2, 3):  # Targets may be anything, also None.
        data = list(data[0]) if isinstance(data[0], tuple) else data[0]
    if not (hasattr(data, "shape") or hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise ValueError(f"`data` is nothing that `fit` takes. Received: {data!r}")
    for part in cut_data(data, len(inputs), _BATCH):
        arrays = [_fitting(array, t) for array, t in zip(batch_of(part, inputs)[0], inputs)]
        if all(array.shape[0] for array in arrays):
            yield arrays


def _fitting(array, tensor):
    """An array as an input takes it, with the last axis of 1 that `fit` would add."""
    shape = tuple(tensor.shape)
    if len(array.shape) == len(shape) - 1 and shape[-1] == 1:
        array = ops.expand_dims(array, -1)
    fits = len(array.shape) == len(shape) and all(
        m is None or n == m for n, m in zip(array.shape[1:], shape[1:])
    )
    if not fits:
        raise ValueError(
            f"`data` does not fit the input {tensor.name!r} of shape {shape}. "
            f"Received: a batch of shape {tuple(array.shape)}"
        )
    if keras.backend.is_float_dtype(tensor.dtype) and not bool(ops.all(ops.isfinite(array))):
        raise ValueError(f"`data` for the input {tensor.name!r} has NaN or infinity in it.")
    return array
