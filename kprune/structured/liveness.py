"""Which channels of a model still say anything about its input, and what the others say."""

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune._keras.layers import takes_training
from kprune._system.errors import first_line
from kprune.graphs.walk import call_arguments, graph_of, walk

_PRODUCTS = ("Multiply",)
_EXAMPLES = 2


class Inflow:
    """What one layer is given along an axis of channels, over all its calls.

    Attributes:
        labels: int array [n], representatives of the channels.
        varies: bool array [n], whether a position depends on the model's input.
        values: float array [n], what the other positions hold; NaN where that differs
            from place to place.
    """

    def __init__(self, labels, varies, values):
        self.labels, self.varies, self.values = labels, varies, values

    def merge(self, other):
        """What holds in this call and in another one."""
        same = np.isclose(self.values, other.values, rtol=1e-6, atol=0.0)
        return Inflow(self.labels, self.varies | other.varies, np.where(same, self.values, np.nan))


def inflows(graph):
    """Run the graph's model once, and return what each layer with weights is given.

    A position that varies depends on the input through weights that are not zero; what
    the others hold is read from the run.

    Returns:
        Dict from a layer's id to a list of `Inflow`s, one for each input with channels.

    Raises:
        ValueError: a model that cannot be run on random inputs.
    """
    try:
        return _Run(graph).found
    except Exception as error:
        raise ValueError(
            f"What {graph.model.name!r} does with empty channels could not be found out by running "
            f"it on random inputs: {first_line(error)}"
        ) from error


@dataclasses.dataclass(eq=False)
class _Known:
    """A tensor of the run: its value, and which channels vary (None: there is no telling)."""

    value: Any
    varies: np.ndarray | None = None


class _Run:
    def __init__(self, graph):
        self._graph, self.found = graph, {}
        random = np.random.default_rng(0)
        inputs = graph_of(graph.model).inputs
        # What a custom layer makes of its own weights was recorded for one example.
        examples = 1 if any(one.closed for one in graph.openings.values()) else _EXAMPLES
        values = [
            _random(random, (t.shape[0] or examples, *graph.tensors[id(t)].shape[1:]), t.dtype)
            for t in inputs
        ]
        # Layers may count, or remember what they have seen.
        before = [(v, keras.ops.convert_to_numpy(v)) for v in graph.model.non_trainable_variables]
        try:
            walk(graph.model, [_Known(value) for value in values], self._step, inside=self._inside)
        finally:
            for variable, value in before:
                variable.assign(value)

    def _inside(self, node, values):
        opening = self._graph.openings.get(id(node))
        return None if opening is None else opening.graph

    def _step(self, node, given):
        """The outputs of a call, evaluated on `_Known` arguments, as such."""
        operation, tensors = node.operation, node.arguments.keras_tensors
        args, kwargs = call_arguments(node, [known.value for known in given])
        if takes_training(operation):
            kwargs = {**kwargs, "training": False}
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        record = self._graph.layers.get(id(operation))
        varying = self._varying(operation, record, tensors, given)
        if record is not None:
            self._note(operation, tensors, given)
        return [
            _Known(value, self._of(tensor, varying)) for tensor, value in zip(node.outputs, outputs)
        ]

    def _roots(self, tensor):
        known = self._graph.tensors[id(tensor)]
        return None if known.axis is None else self._graph.labels.find(known.labels)

    def _of(self, tensor, varying):
        """Which positions of an output vary, from the channels that do."""
        roots = self._roots(tensor)
        return None if roots is None else np.array([varying(root) for root in roots.tolist()])

    def _varying(self, operation, record, tensors, given):
        """A function from a channel to whether it varies in the operation's outputs."""
        incoming, others = {}, False
        for tensor, known in zip(tensors, given):
            roots = self._roots(tensor)
            if roots is None:
                others = True  # What it has no channels for may depend on the input.
                continue
            varies = np.ones(len(roots), bool) if known.varies is None else known.varies
            for root, one in zip(roots.tolist(), varies.tolist()):
                incoming[root] = incoming.get(root, False) or one
        if record is None:
            if others:
                incoming = dict.fromkeys(incoming, True)
            if type(operation).__name__ in _PRODUCTS:
                for tensor, known in zip(tensors, given):
                    for root in self._always_zero(tensor, known):
                        incoming[root] = False
            return lambda root: incoming.get(root, True)
        made = self._nonzero(record, lambda use: use.makes)
        passed = self._nonzero(
            record, lambda use: use.axes.keys() - use.makes - use.takes if _scales(use) else ()
        )

        def varies(root):
            if root in made:
                return any(made[root])
            return incoming.get(root, True) and all(passed.get(root, ()))

        return varies

    def _always_zero(self, tensor, known):
        roots = self._roots(tensor)
        if roots is None or known.varies is None:
            return []
        held = _held(known.value, self._graph.tensors[id(tensor)].axis)
        return np.unique(roots[~known.varies & (held == 0)]).tolist()

    def _nonzero(self, record, axes_of):
        """From a channel to a list: for each use along such an axis, is any weight not zero?"""
        found = {}
        for use in record.uses.values():
            for axis in axes_of(use):
                if use.variable is None:
                    continue
                roots = self._graph.labels.find(use.axes[axis])
                others = tuple(i for i in range(len(use.variable.shape)) if i != axis)
                nonzero = np.any(keras.ops.convert_to_numpy(use.variable) != 0, axis=others)
                filled = dict.fromkeys(roots.tolist(), False)
                filled.update(dict.fromkeys(roots[nonzero].tolist(), True))
                for root, one in filled.items():
                    found.setdefault(root, []).append(one)
        return found

    def _note(self, operation, tensors, given):
        """Remember what a layer with weights was given."""
        noted = []
        for tensor, known in zip(tensors, given):
            roots = self._roots(tensor)
            if roots is None:
                continue
            varies = np.ones(len(roots), bool) if known.varies is None else known.varies
            held = _held(known.value, self._graph.tensors[id(tensor)].axis)
            noted.append(Inflow(roots, varies, held))
        before = self.found.get(id(operation))
        if before is not None:
            noted = [one.merge(other) for one, other in zip(before, noted)]
        self.found[id(operation)] = noted


def _scales(use):
    """Whether a zero of the variable makes its channel a constant."""
    return use.scales or use.applications > 0


def _held(value, axis):
    """The one value at each position of an axis; NaN where there are several."""
    value = np.asarray(keras.ops.convert_to_numpy(value), "float64")
    rows = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
    same = np.isclose(rows, rows[:, :1], rtol=1e-6, atol=0.0).all(axis=1)
    return np.where(same, rows[:, 0], np.nan)


def _random(random, shape, dtype):
    if keras.backend.is_float_dtype(dtype):
        return keras.ops.cast(random.normal(size=shape).astype("float32"), dtype)
    if dtype == "string":
        return keras.ops.convert_to_tensor(random.choice(["a", "b"], shape), dtype="string")
    return keras.ops.cast(random.integers(0, 2, shape), dtype)
