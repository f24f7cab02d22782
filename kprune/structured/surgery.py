"""A smaller model: the same layers and operations, with fewer channels."""

import collections
import warnings

import keras
import numpy as np

from kprune._keras.graph import producer, unconnected
from kprune._keras.layers import copy_own_trainable, flatten_layers, own_variables, sublayers
from kprune._keras.tracking import replace_part
from kprune.graphs import captures, rebuild
from kprune.graphs.identity import own_functions
from kprune.graphs.walk import graph_of, is_graph, nodes
from kprune.structured.operations import made_anew, resized
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
    return _Surgeon(graph, np.asarray(gone), biases or {}).model(adjust)


class _Surgeon:
    def __init__(self, graph, gone, biases):
        self._graph, self._gone, self._biases = graph, gone, biases
        self._new = {}  # From the id of a layer or model to the new one.
        self._variants = collections.defaultdict(list)  # Of layers that are resized by the call.
        self._layers = []  # The old layers that have new ones.
        self._variables = {}  # From the id of a variable to the new one.
        self._shared = _shared_parts(graph.model)
        self._sparse = {id(variable) for variable in sparse_variables(graph.model)}

    def model(self, adjust):
        new = self._rebuilt(self._graph.model)
        watch_zeros([new for layer in self._layers for new in self._copy_weights(layer)])
        for layer in self._layers:
            self._share_variables(layer)
            if id(layer) not in self._graph.layers:
                rebuild.copy_state(layer, self._new[id(layer)])
        for record in self._graph.layers.values():
            for (path, _), (labels, function) in record.after.items():
                share = float(np.mean(self._kept(labels)))
                layer = self._new[id(record.layer)]
                for name in path[::2]:  # A path goes from "layer" to "config" to "layer" ...
                    layer = getattr(layer, name)
                if share < 1:
                    function(layer, share)
        for layer in self._layers:
            rebuild.copy_trainable(layer, self._new[id(layer)])
        if adjust is not None:
            adjust(lambda layer: self._new[id(layer)])
        return new

    def _kept(self, labels):
        return ~np.isin(self._graph.labels.find(labels), self._gone)

    def _rebuilt(self, model):
        """Build a Sequential or functional model anew from its graph."""
        build = self._sequential if isinstance(model, keras.Sequential) else self._functional
        new = build(model)
        copy_own_trainable(model, new)  # The layers inside have their own.
        return new

    def _sequential(self, model):
        (tensor,) = model.inputs
        new_layers = [self._inputs(tensor)]
        calls = {id(node.operation): node for node in nodes(graph_of(model))}
        for layer in model.layers:
            node = calls[id(layer)]
            new_layers.append(self._operation(node, list(node.arguments.args), {})[0])
        return keras.Sequential(new_layers, name=model.name)

    def _functional(self, model):
        inputs = keras.tree.map_structure(self._inputs, model.input)
        tensors = dict(zip(map(id, model.inputs), keras.tree.flatten(inputs)))
        for node in nodes(model):
            args, kwargs = keras.tree.map_structure(self._argument, node.arguments.fill_in(tensors))
            operation, args, kwargs = self._operation(node, list(args), kwargs)
            outputs = keras.tree.flatten(operation(*args, **kwargs))
            tensors.update(zip(map(id, node.outputs), outputs))
        outputs = [tensors[id(tensor)] for tensor in model.outputs]
        outputs = keras.tree.pack_sequence_as(model.output, outputs)
        return keras.Model(inputs, outputs, name=model.name)

    def _inputs(self, tensor):
        layer = producer(tensor)
        shape, (axis, kept) = list(tensor.shape), self._channels(tensor)
        if axis is not None:
            shape[axis] = int(kept.sum())
        return keras.Input(
            batch_shape=shape, dtype=tensor.dtype, sparse=tensor.sparse,
            optional=layer.optional, name=layer.name,
        )  # fmt: skip

    def _operation(self, node, args, kwargs):
        """What a node calls in the new model, and on what."""
        old = node.operation
        if id(old) not in self._new:
            self._new[id(old)] = self._made_again(old)
        new, args, kwargs = resized(
            self._new[id(old)],
            args,
            kwargs,
            [self._channels(tensor) for tensor in node.arguments.keras_tensors],
            [self._channels(tensor) for tensor in node.outputs],
        )
        if new is not self._new[id(old)]:
            new = self._one_for_all(id(old), new)
        return new, args, kwargs

    def _one_for_all(self, key, operation):
        """The operation, or an equal one that another call of the old one was given."""
        known = self._variants[key]
        for other in known:
            if other.get_config() == operation.get_config():
                return other
        if known and "name" in operation.get_config():
            operation = made_anew(operation, name=f"{operation.name}_{len(known)}")
        known.append(operation)
        return operation

    def _channels(self, tensor):
        known = self._graph.tensors[id(tensor)]
        return known.axis, None if known.axis is None else self._kept(known.labels)

    def _argument(self, value):
        """An argument of a call; of a variable the new one, or the value if no layer owns it."""
        if not isinstance(value, keras.Variable):
            return captures.rebound(value, self._new_of)
        new = self._new_of(value)
        if new is not None:
            return new
        warnings.warn(
            f"{value.path} is no layer's variable, so it is a constant in the smaller model and "
            "will not be trained there. Put it into a layer.",
            stacklevel=2,
        )
        return keras.ops.convert_to_numpy(value)

    def _new_of(self, value):
        """The new layer or variable in the place of an old one, or None."""
        if not isinstance(value, keras.Variable):
            return self._new.get(id(value))
        for layer in self._layers:
            for variable, new in zip(layer.weights, self._new[id(layer)].weights):
                if variable is value:
                    return new
        return None

    def _rebind(self, operation):
        """Have the functions of a new operation refer to new layers and variables."""
        parts = flatten_layers(operation) if isinstance(operation, keras.Layer) else [operation]
        for part in parts:
            for name, function in own_functions(part).items():
                vars(part)[name] = captures.rebound(function, self._new_of)

    def _made_again(self, operation):
        if is_graph(operation):
            return self._rebuilt(operation)
        if not isinstance(operation, keras.Layer):
            new = unconnected(operation)
            self._rebind(new)
            return new
        record = self._graph.layers.get(id(operation))

        def change(config):
            for path, (labels, function) in (record.sizes if record else {}).items():
                _set_entry(config, path, function(self._kept(labels).sum()))
            if id(operation) in self._biases:
                config["use_bias"] = True
            # Weights are copied: random ones, which JAX would compile, are not wanted before.
            config.update(dict.fromkeys(_initializers(operation).keys() & config.keys(), "zeros"))

        new = rebuild.rebuilt_layer(operation, change)
        self._rebind(new)
        self._share_parts(operation, new)
        self._layers.append(operation)
        return new

    def _share_parts(self, layer, new):
        """What several layers have inside them is the same one in the new layers."""
        for old, part in zip(sublayers(layer), sublayers(new)):
            if id(old) not in self._shared:
                self._share_parts(old, part)
            elif self._new.setdefault(id(old), part) is not part:
                replace_part(new, part, self._new[id(old)])

    def _share_variables(self, layer):
        """A variable of several layers is one in the new layers, too."""
        for old, part in rebuild.pairs(layer, self._new[id(layer)]):
            for variable, new in zip(own_variables(old), own_variables(part)):
                known = self._variables.setdefault(id(variable), new)
                if known is not new:
                    replace_part(part, new, known)

    def _copy_weights(self, layer):
        """Give the new layer its weights; return those in which zeros are at risk."""
        new_layer, bias = self._new[id(layer)], self._biases.get(id(layer))
        values = [self._kept_of(layer, variable) for variable in layer.weights]
        if bias is not None:
            bias = bias[self._kept_of_axis(layer, layer.kernel, -1)]
            if layer.bias is None:
                values.append(np.zeros_like(bias))
        for value, new in zip(values, new_layer.weights, strict=True):
            new.assign(value)
        for name, initializer in _initializers(layer).items():
            setattr(new_layer, name, initializer)
        if bias is not None:
            new_layer.bias.assign(keras.ops.convert_to_numpy(new_layer.bias) + bias)
        return [
            new
            for old, new, value in zip(layer.weights, new_layer.weights, values)
            if id(old) in self._sparse and 0 < np.count_nonzero(value) < value.size
        ]

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


def _initializers(layer):
    found = vars(layer).items()
    return {name: v for name, v in found if isinstance(v, keras.initializers.Initializer)}


def _shared_parts(model):
    """The ids of layers that are in several layers of a graph, or in one and in the graph."""
    seen, shared = set(), set()

    def visit(graph):
        for operation in dict.fromkeys(node.operation for node in nodes(graph_of(graph))):
            if is_graph(operation):
                visit(operation)
            elif isinstance(operation, keras.Layer) and id(operation) not in visited:
                visited.add(id(operation))
                parts = {id(part) for part in flatten_layers(operation)}
                shared.update(parts & seen)
                seen.update(parts)

    visited = set()
    visit(model)
    return shared


def _set_entry(config, path, value):
    *parents, last = path
    for name, following in zip(parents, path[1:]):
        if isinstance(following, int):  # One of several sizes.
            sizes = config[name]
            config[name] = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
        config = config[name]
    config[last] = value
