"""Data on its way through a model, which stops at each layer that is to be changed.

A model that is a graph is followed node by node, with all batches at once: each layer is called
with what the layers before it make, as they are by then, and a model of many layers is run little
more than once. What is no graph, as a custom layer or a subclassed model, is run once for each of
the layers in it.
"""

import collections

import keras

from kprune._keras.layers import flatten_layers, takes_training
from kprune._keras.methods import replace_method, restore_method
from kprune.graphs.walk import call_arguments, graph_of, nodes, walk


def stages(model, batches, wanted, visit):
    """Run a model on batches, and visit layers in the order of their calls.

    Args:
        model: a built `keras.Model`.
        batches: list of what the model is called on.
        wanted: list of the layers to visit.
        visit: function from a layer and a function `run()`, which calls the layer on all batches,
            or whatever calls it. What it changes in the layer is there for those that follow.
            Layers that are never called are not visited.
    """
    _Run(model, batches, wanted, visit).run()


class _Run:
    def __init__(self, model, batches, wanted, visit):
        self._model, self._batches, self._visit = model, batches, visit
        self._left = {id(layer): layer for layer in wanted}
        self._uses, self._calls = collections.Counter(), collections.Counter()

    def run(self):
        own = graph_of(self._model)
        if own is None:
            self._stop(self._model, self._run_whole)
            return
        self._count(own)
        flat = [keras.tree.flatten(batch) for batch in self._batches]
        inputs = [_Values([batch[i] for batch in flat]) for i in range(len(own.inputs))]
        walk(self._model, inputs, self._step, self._note)

    def _count(self, graph):
        """Count how often each operation is called, and each tensor is taken."""
        for node in nodes(graph):
            self._calls[id(node.operation)] += 1
            if graph_of(node.operation) is not None:
                self._count(graph_of(node.operation))
            else:
                self._uses.update(map(id, node.arguments.keras_tensors))
        self._uses.update(map(id, graph.outputs))

    def _note(self, tensor, values):
        values.uses += self._uses[id(tensor)]
        return values

    def _run_whole(self):
        for batch in self._batches:
            self._model(batch, training=False)

    def _step(self, node, values):
        if not self._left:
            return [_Values(None) for _ in node.outputs]
        operation = node.operation

        def call(i):
            args, kwargs = call_arguments(node, [value.batches[i] for value in values])
            if takes_training(operation):
                kwargs = {**kwargs, "training": False}
            return keras.tree.flatten(operation(*args, **kwargs))

        def run():
            for i in range(len(self._batches)):
                call(i)

        if isinstance(operation, keras.Layer):
            shared = self._calls[id(operation)] > 1
            self._stop(operation, self._run_whole if shared else run)
        outputs = [call(i) for i in range(len(self._batches))]
        for value in values:
            value.taken()
        return [_Values(list(each)) for each in zip(*outputs)]

    def _stop(self, thing, run):
        """Visit the layers in a layer or model, in the order of their calls."""
        inside = [part for part in flatten_layers(thing) if id(part) in self._left]
        for layer in _in_order(inside, run) if len(inside) > 1 else inside:
            if id(layer) in self._left:
                del self._left[id(layer)]
                self._visit(layer, run)


class _Values:
    """A tensor of each batch, for as long as it is needed."""

    def __init__(self, batches):
        self.batches, self.uses = batches, 0

    def taken(self):
        self.uses -= 1
        if self.uses <= 0:
            self.batches = None


def _in_order(layers, run):
    """The layers that are called in a run, in the order of their first calls."""
    called = {}

    def noted(layer):
        def around(own, *args, **kwargs):
            called.setdefault(id(layer), layer)
            return own(*args, **kwargs)

        return around

    for layer in layers:
        replace_method(layer, "call", noted(layer))
    try:
        run()
    finally:
        for layer in layers:
            restore_method(layer, "call")
    return list(called.values())


def inputs_of(layer, run, take):
    """Hand what a layer is called on, batch by batch, to a function.

    Args:
        layer: the `keras.Layer`.
        run: function that has the layer called.
        take: function from the first argument, a tensor, and the layer's own `call`.

    Returns:
        How often it was called.
    """
    calls = []

    def around(own, *args, **kwargs):
        first = args[0] if args else next(iter(kwargs.values()))
        calls.append(take(first, own))
        return own(*args, **kwargs)

    replace_method(layer, "call", around)
    try:
        run()
    finally:
        restore_method(layer, "call")
    return len(calls)
