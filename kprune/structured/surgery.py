"""A smaller model: the same layers and operations, with fewer channels."""

import collections
import warnings

import keras
import numpy as np

from kprune._keras.layers import flatten_layers
from kprune.graphs.layer_copy import CannotCopy, copy_state, pairs
from kprune.graphs.rebuild import Rebuild, input_like
from kprune.structured.opening import call_like, calls, close, is_custom, random_values
from kprune.structured.operations import made_again, resized
from kprune.structured.same_class import (
    all_tensors,
    cut_value,
    is_copied,
    run_after,
    set_entry,
    smaller_config,
)
from kprune.training.at_risk import watch_zeros
from kprune.training.zeros import sparse_variables


def cut(graph, gone, adjust=None, biases=None):
    """Return a new model without some channels, with the weights of the others.

    Args:
        graph: a `ChannelGraph`.
        gone: int array, representatives of the sets of labels that leave.
        adjust: function called once the weights are in, with a function from a layer of
            the model to the new one.
        biases: dict from the id of a layer with a bias, or an option for one, to a float
            array that is added to it.

    Returns:
        A plain Keras model, Sequential or functional, uncompiled. The graph's own model
        is as it was.

    Raises:
        ValueError: a layer that cannot be made again from its configuration.
    """
    return _Surgeon(graph, np.asarray(gone), biases or {}).smaller(adjust)


class _Surgeon(Rebuild):
    def __init__(self, graph, gone, biases):
        super().__init__(graph.model)
        self._graph, self._gone, self._biases = graph, gone, biases
        self._variants = collections.defaultdict(list)  # Of layers that are resized by the call.
        self._sparse = {id(variable) for variable in sparse_variables(graph.model)}
        self._at_risk = []  # New weights that zeros may leave.
        self._said = {}  # Of custom layers, what changes in the configuration; None: expanded.
        self._unproved = []  # Calls of custom layers that are copied as they are.
        self._expansions = collections.Counter()

    def smaller(self, adjust):
        """Return the smaller model; `adjust` as in `cut`."""
        new = self.run()
        watch_zeros(self._at_risk)
        for node in self._unproved:
            self._prove(node)
        for variable in self.constants:
            warnings.warn(
                f"{variable.path} is no layer's variable, so it is a constant in the smaller model "
                "and will not be trained there. Put it into a layer.",
                stacklevel=2,
            )
        if adjust is not None:
            adjust(self.new_of)
        return new

    def new_input(self, tensor):
        shape, (axis, kept) = list(tensor.shape), self._channels(tensor)
        if axis is not None:
            shape[axis] = int(kept.sum())
        return input_like(tensor, shape)

    def change_config(self, layer, config):
        record = self._graph.layers.get(id(layer))
        for path, (labels, function) in (record.sizes if record else {}).items():
            set_entry(config, path, function(self._kept(labels).sum()))
        for path, value in (self._said.get(id(layer)) or {}).items():
            set_entry(config, path, value)
        if id(layer) in self._biases:
            config["use_bias"] = True

    def place(self, node, args, kwargs):
        opening = self._graph.openings.get(id(node))
        if opening is not None and not self._stays_of_its_class(opening):
            given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
            new = keras.tree.flatten((args, kwargs))
            tensors = [b for a, b in zip(given, new) if isinstance(a, keras.KerasTensor)]
            return self._expanded(opening), [tensors if len(tensors) > 1 else tensors[0]], {}
        if opening is None and self._is_copied_whole(node):
            self._unproved.append(node)
        new = self.new_of(node.operation)
        operation, args, kwargs = resized(
            new,
            list(args),
            kwargs,
            [self._channels(tensor) for tensor in node.arguments.keras_tensors],
            [self._channels(tensor) for tensor in node.outputs],
        )
        if operation is not new:
            operation = self._one_for_all(id(node.operation), operation)
        return operation, args, kwargs

    def _stays_of_its_class(self, opening):
        """Whether a custom layer is made again of its class, and how: see `self._said`."""
        key = id(opening.layer)
        if key not in self._said:
            whole = self._is_whole(opening)
            if whole and not is_copied(self._graph, opening):
                if opening.closed is not None:
                    self._warn_of_copy(opening.layer)
                whole = opening.closed is not None
            self._said[key] = {} if whole else self._smaller(opening)
        return self._said[key] is not None

    def _is_copied_whole(self, node):
        """Whether a call is one of a custom layer that nothing says the copy of is right."""
        layer = node.operation
        if not (isinstance(layer, keras.Layer) and is_custom(layer) and self._loses_nothing(layer)):
            return False
        tensors = [*node.arguments.keras_tensors, *node.outputs]
        if any(id(tensor) not in self._graph.tensors for tensor in tensors):
            return False
        kept = [self._channels(tensor)[1] for tensor in tensors]
        seen = any(other.operation is layer for other in self._unproved)
        return not seen and all(one is None or one.all() for one in kept)

    def _prove(self, node):
        """Warn where a custom layer, called twice, does the same, and its copy something else."""
        tensors = node.arguments.keras_tensors
        values = random_values(node, [self._graph.tensors[id(t)].shape for t in tensors])
        layer = node.operation
        one, again = (_outputs(node, layer, values) for _ in range(2))
        # None: it takes something else than random numbers.
        if one is not None and again is not None and all(map(close, one, again)):
            other = _outputs(node, self.new_of(layer), values)
            if other is None or not all(map(close, one, other)):
                self._warn_of_copy(layer)

    def _warn_of_copy(self, layer):
        warnings.warn(
            f"{self._graph.named(layer)}, made again from its configuration, was not seen "
            "to compute what it computes: check the smaller model's outputs, and that its "
            "`get_config()` has every argument of its constructor.",
            stacklevel=2,
        )

    def _smaller(self, opening):
        changes = smaller_config(self._graph, opening, self._gone)
        if changes is None and opening.closed is not None:
            raise CannotCopy(
                f"{self._graph.named(opening.layer)} cannot be made again from its configuration: "
                "its class needs a `get_config()` that has every argument of its constructor. What "
                f"is inside cannot take its place either, for {opening.closed}."
            )
        return changes

    def _is_whole(self, opening):
        """Whether a custom layer loses nothing, nor anything that goes through it."""
        tensors = [t for t in all_tensors(opening.graph) if id(t) in self._graph.tensors]
        kept = [self._channels(tensor)[1] for tensor in tensors]
        biased = any(id(part) in self._biases for part in flatten_layers(opening.layer))
        whole = self._loses_nothing(opening.layer) and not biased
        return whole and all(one is None or one.all() for one in kept)

    def _loses_nothing(self, layer):
        return all(kept.all() for v in layer.weights for kept in self._graph.kept(v, self._gone))

    def _expanded(self, opening):
        """The call of a custom layer, in its place; one for all calls that are alike."""
        key = id(opening.layer), calls(opening.graph), tuple(opening.shapes)
        if key not in self._new:
            new = self._built_again(opening.graph)
            number = self._expansions[id(opening.layer)]
            new.name = f"{opening.layer.name}_{number}" if number else opening.layer.name
            self._expansions[id(opening.layer)] += 1
            self._new[key] = new
        return self._new[key]

    def fill(self, layer, new):
        values = [
            cut_value(keras.ops.convert_to_numpy(v), self._graph.kept(v, self._gone))
            for v in layer.weights
        ]
        bias = self._biases.get(id(layer))
        if bias is not None:
            bias = bias[self._graph.kept(layer.kernel, self._gone)[-1]]
            if layer.bias is None:
                values.append(np.zeros_like(bias))
        for value, variable in zip(values, new.weights, strict=True):
            variable.assign(value)
        if bias is not None:
            new.bias.assign(keras.ops.convert_to_numpy(new.bias) + bias)
        self._at_risk += [
            variable
            for old, variable, value in zip(layer.weights, new.weights, values)
            if id(old) in self._sparse and 0 < np.count_nonzero(value) < value.size
        ]
        copy_state(layer, new, self._loses_nothing)
        run_after(self._graph, layer, new, self._gone)
        if id(layer) in self._said:  # What is known by the layers inside is theirs in the new one.
            for old, part in pairs(layer, new):
                self._new.setdefault(id(old), part)

    def _one_for_all(self, key, operation):
        """The operation, or an equal one that another call of the old one was given."""
        known = self._variants[key]
        for other in known:
            if other.get_config() == operation.get_config():
                return other
        if known and "name" in operation.get_config():
            operation = made_again(operation, name=f"{operation.name}_{len(known)}")
        known.append(operation)
        return operation

    def _channels(self, tensor):
        return self._graph.kept_of_tensor(tensor, self._gone)

    def _kept(self, labels):
        return ~np.isin(self._graph.labels.find(labels), self._gone)


def _outputs(node, layer, values):
    """What a layer returns, called as a node's is; None if it raises."""
    try:
        return call_like(node, layer, values)
    except Exception:
        return None
