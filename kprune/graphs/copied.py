"""A functional model built anew from copies of its layers, with some calls replaced."""

import keras

from kprune.graphs.walk import functional, nodes


class CannotCopy(ValueError):
    """A layer cannot be made again from its configuration."""


def rebuild(model, calls):
    """Return a copy of a model in which some layers are called in another way.

    Layers and weights are copies; the models inside the model are dissolved into it. The model
    that is passed, and the graph its layers remember, stay as they are.

    Args:
        model: a built functional or Sequential model.
        calls: {layer name: function (copy of the layer, inputs) -> output}.

    Returns:
        A functional `keras.Model` with the inputs and outputs of `model`.

    Raises:
        CannotCopy: a layer cannot be made again from its `get_config`.
    """
    graph = functional(model)
    builder = _Builder(calls)
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in graph.inputs
    ]
    outputs = builder.run(graph, inputs)
    new = keras.Model(
        keras.tree.pack_sequence_as(graph.input, inputs),
        keras.tree.pack_sequence_as(graph.output, outputs),
        name=model.name,
    )
    for old, copy in builder.copies.values():
        if isinstance(old, keras.Layer) and old.weights:
            copy.set_weights(old.get_weights())
    return new


class _Builder:
    def __init__(self, calls):
        self.calls, self.copies, self.names = calls, {}, set()

    def run(self, graph, inputs):
        """Call copies of a graph's operations on `inputs`; return its outputs."""
        new = {id(tensor): value for tensor, value in zip(graph.inputs, inputs)}
        for node in nodes(graph):
            args, kwargs = node.arguments.fill_in(new)
            results = keras.tree.flatten(self._call(node.operation, args, kwargs))
            new |= {id(tensor): value for tensor, value in zip(node.outputs, results)}
        return [new[id(tensor)] for tensor in graph.outputs]

    def _call(self, operation, args, kwargs):
        inner = functional(operation) if isinstance(operation, keras.Model) else None
        if inner is not None:
            return self.run(inner, keras.tree.flatten(args))
        if operation.name in self.calls:
            return self.calls[operation.name](operation, *args)
        if id(operation) not in self.copies:
            self.copies[id(operation)] = operation, self._copy(operation)
        return self.copies[id(operation)][1](*args, **kwargs)

    def _copy(self, operation):
        name, number = operation.name, 0
        while name in self.names:  # as in two models in the model
            number += 1
            name = f"{operation.name}_{number}"
        self.names.add(name)
        try:
            config = operation.get_config()
            renamed = config | {"name": name} if "name" in config else config
            return type(operation).from_config(renamed)
        except Exception as error:  # A layer of the user's may raise anything.
            raise CannotCopy(
                f"The layer '{operation.name}' cannot be copied: {type(operation).__name__} needs "
                "a `get_config` that its constructor takes, as saving the model does. "
                f"{type(error).__name__}: {error}"
            ) from error
