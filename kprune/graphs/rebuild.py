"""One rebuild of a model from its graph: whatever stands in the place of each operation."""

import collections

import keras

from kprune._keras.graph import functional_inside, producer, unconnected
from kprune._keras.layers import copy_own_trainable, flatten_layers, own_variables, sublayers
from kprune._keras.tracking import replace_part
from kprune.graphs import captures
from kprune.graphs.identity import own_functions
from kprune.graphs.layer_copy import (
    CannotCopy,
    copied_layer,
    copy_state,
    copy_trainable,
    initializers,
    pairs,
)
from kprune.graphs.walk import graph_of, nodes, operations


def input_like(tensor, shape=None):
    """Return a `keras.Input` like an input of a model, of its name, perhaps of another shape."""
    layer = producer(tensor)
    new = keras.Input(
        batch_shape=shape or tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse,
        optional=layer.optional, name=layer.name,
    )  # fmt: skip
    new.name = tensor.name  # The layer's, unless nobody named it; the export goes by it.
    copy_own_trainable(layer, producer(new))
    return new


def left_out(tensor):
    """Return the tensor: what `place` has called in the place of an operation that leaves."""
    return tensor


def build_again(model, place, new_input=input_like, kind=keras.Model):
    """Build a model from another one's graph, of the same name and structure.

    Args:
        model: a functional model or a built Sequential one.
        place: function from a node, `args` and `kwargs` to what is called in the new model, on
            which arguments: `(callable, args, kwargs)`. A Sequential model is one again if these
            are operations or `left_out`; their arguments are not looked at then.
        new_input: function from an input of the model to the new one.
        kind: class of the new model, unless it is Sequential.
    """
    own = functional_inside(model) if isinstance(model, keras.Sequential) else model
    new = _sequential(model, own, place, new_input) if own is not model else None
    if new is None:
        inputs = keras.tree.map_structure(new_input, own.input)
        tensors = dict(zip(map(id, own.inputs), keras.tree.flatten(inputs)))
        for node in nodes(own):
            called, args, kwargs = place(node, *node.arguments.fill_in(tensors))
            outputs = keras.tree.flatten(called(*args, **kwargs))
            tensors |= zip(map(id, node.outputs), outputs)
        outputs = [tensors[id(tensor)] for tensor in own.outputs]
        outputs = keras.tree.pack_sequence_as(own.output, outputs)
        new = kind(inputs, outputs, name=model.name)
    copy_own_trainable(model, new)  # The layers inside have their own.
    return new


def _sequential(model, own, place, new_input):
    """The Sequential model; None if something else than an operation takes a layer's place."""
    calls = {id(node.operation): node for node in nodes(own)}
    each = [calls[id(layer)] for layer in model.layers]
    placed = [place(node, node.arguments.args, {})[0] for node in each]
    placed = [operation for operation in placed if operation is not left_out]
    if not all(isinstance(operation, keras.Operation) for operation in placed):
        return None
    return keras.Sequential([*map(new_input, own.inputs), *placed], name=model.name)


class Rebuild:
    """Makes a copy of a model from its graph, with layers and weights of its own.

    What is shared in the model is shared in the copy: layers, nested models, layers inside
    several layers, variables. Functions refer to the new layers. Names, structures of inputs and
    outputs, states, and what is trained are the same. The model, and the graph that its layers
    remember, stay as they are. Subclasses say what is different in the new model.

    Args:
        model: a model with a graph (see `graph_of`).

    Attributes:
        constants: variables that calls in the model take and no layer owns. In the copy they are
            constants.
    """

    def __init__(self, model):
        self.model, self.constants = model, []
        self._new = {}  # From the id of an operation or nested model to the new one.
        self._layers = []  # The old layers that have new ones.
        self._variables = {}  # From the id of a variable to the new one.
        self._shared = _shared_parts(model)

    def run(self):
        """Return the new model, uncompiled.

        Raises:
            CannotCopy: a layer cannot be made again from its configuration.
        """
        new = self._built_again(self.model)
        for layer in self._layers:
            self.fill(layer, self._new[id(layer)])
            for name, initializer in initializers(layer).items():
                setattr(self._new[id(layer)], name, initializer)
        for layer in self._layers:
            self._share_variables(layer)
        for layer in self._layers:
            copy_trainable(layer, self._new[id(layer)])
        return new

    def new_input(self, tensor):
        """Return the new model's input in the place of a tensor."""
        return input_like(tensor)

    def change_config(self, layer, config):
        """Change the configuration, a dict, that a layer is made again from."""

    def place(self, node, args, kwargs):
        """Return `(callable, args, kwargs)`: what a node calls in the new model, and on what."""
        return self.new_of(node.operation), args, kwargs

    def fill(self, layer, new):
        """Give a new layer its weights and state."""
        shapes = [[tuple(v.shape) for v in one.weights] for one in (layer, new)]
        if shapes[0] != shapes[1]:
            raise CannotCopy(
                f"The layer {layer.name!r} has other weights when it is made again from its "
                f"configuration. Received: {type(layer).__name__}, with weights of shapes "
                f"{shapes[0]}, and {shapes[1]} when made again"
            )
        for old, variable in zip(layer.weights, new.weights):
            variable.assign(keras.ops.convert_to_numpy(old))
        copy_state(layer, new)

    def new_of(self, operation):
        """Return the new operation, layer or nested model in the place of one of the model's."""
        if id(operation) not in self._new:
            self._new[id(operation)] = self._made_again(operation)
        return self._new[id(operation)]

    def _built_again(self, model):
        def place(node, args, kwargs):
            args, kwargs = keras.tree.map_structure(self._argument, (args, kwargs))
            return self.place(node, args, kwargs)

        return build_again(model, place, self.new_input)

    def _made_again(self, operation):
        if graph_of(operation) is not None:
            return self._built_again(operation)
        if not isinstance(operation, keras.Layer):
            new = unconnected(operation)
            self._rebind(new)
            return new

        def change(config):
            self.change_config(operation, config)
            # Weights are copied: random ones, which JAX would compile, are not wanted before.
            config.update(dict.fromkeys(initializers(operation).keys() & config.keys(), "zeros"))

        new = copied_layer(operation, change)
        self._rebind(new)
        self._share_parts(operation, new)
        self._layers.append(operation)
        return new

    def _argument(self, value):
        """An argument of a call; of a variable the new one, or the value if no layer owns it."""
        if not isinstance(value, keras.Variable):
            return captures.rebound(value, self._known)
        new = self._known(value)
        if new is not None:
            return new
        if not any(value is other for other in self.constants):
            self.constants.append(value)
        return keras.ops.convert_to_numpy(value)

    def _known(self, value):
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
                vars(part)[name] = captures.rebound(function, self._known)

    def _share_parts(self, layer, new):
        """What several layers have inside them is the same one in the new layers."""
        for old, part in zip(sublayers(layer), sublayers(new)):
            if id(old) not in self._shared:
                self._share_parts(old, part)
            elif self._new.setdefault(id(old), part) is not part:
                replace_part(new, part, self._new[id(old)])

    def _share_variables(self, layer):
        """A variable of several layers is one in the new layers, too."""
        for old, part in pairs(layer, self._new[id(layer)]):
            for variable, new in zip(own_variables(old), own_variables(part)):
                known = self._variables.setdefault(id(variable), new)
                if known is not new:
                    replace_part(part, new, known)


def _shared_parts(model):
    """The ids of layers that are in several layers of a graph, or in one and in the graph."""
    found = [op for op in operations(model) if isinstance(op, keras.Layer)]
    owners = collections.Counter(id(part) for op in found for part in set(flatten_layers(op)))
    return {part for part, number in owners.items() if number > 1}
