"""A smaller model: the same layers and operations, with fewer channels."""

import collections
import warnings

import keras
import numpy as np

from kprune.graphs.layer_copy import copy_state
from kprune.graphs.rebuild import Rebuild, input_like
from kprune.structured.operations import made_again, resized
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

    def smaller(self, adjust):
        """Return the smaller model; `adjust` as in `cut`."""
        new = self.run()
        watch_zeros(self._at_risk)
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
            _set_entry(config, path, function(self._kept(labels).sum()))
        if id(layer) in self._biases:
            config["use_bias"] = True

    def place(self, node, args, kwargs):
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

    def fill(self, layer, new):
        record, bias = self._graph.layers.get(id(layer)), self._biases.get(id(layer))
        values = [self._kept_of(layer, variable) for variable in layer.weights]
        if bias is not None:
            bias = bias[self._kept_of_axis(layer, layer.kernel, -1)]
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
        if record is None:
            copy_state(layer, new)
            return
        for (path, _), (labels, function) in record.after.items():
            share, part = float(np.mean(self._kept(labels))), new
            for name in path[::2]:  # A path goes from "layer" to "config" to "layer" ...
                part = getattr(part, name)
            if share < 1:
                function(part, share)

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
        known = self._graph.tensors[id(tensor)]
        return known.axis, None if known.axis is None else self._kept(known.labels)

    def _kept(self, labels):
        return ~np.isin(self._graph.labels.find(labels), self._gone)

    def _kept_of(self, layer, variable):
        """A variable's values, less the channels that go."""
        value = keras.ops.convert_to_numpy(variable)
        for axis in range(value.ndim):
            value = np.compress(self._kept_of_axis(layer, variable, axis), value, axis=axis)
        return value

    def _kept_of_axis(self, layer, variable, axis):
        record = self._graph.layers.get(id(layer))
        use = record.uses.get(id(variable)) if record else None
        length = variable.shape[axis]
        labels = use.axes.get(axis % len(variable.shape)) if use else None
        return np.ones(length, bool) if labels is None else self._kept(labels)


def _set_entry(config, path, value):
    *parents, last = path
    for name, following in zip(parents, path[1:]):
        if isinstance(following, int):  # One of several sizes.
            sizes = config[name]
            config[name] = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
        config = config[name]
    config[last] = value
