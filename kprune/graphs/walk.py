"""One walk of a Keras model: its operations in the order of their calls, nested models followed."""

import keras

from kprune._keras import graph as keras_graph


def graph_of(operation):
    """Return the graph of a model that is nothing but a graph of operations, else None.

    Args:
        operation: a `keras.Operation`; a functional model is its own graph, and a Sequential one
            has one once it is built. A class that overrides `call` does more than its graph says.
    """
    if not (keras_graph.is_functional(operation) or isinstance(operation, keras.Sequential)):
        return None
    plain = (keras_graph.functional_class(), keras.Sequential, keras.Model)
    if type(operation).call not in [kind.call for kind in plain]:
        return None
    if isinstance(operation, keras.Sequential):
        return keras_graph.functional_inside(operation)
    return operation


def walk(model, inputs, step, note=lambda tensor, value: value, inside=lambda node, values: None):
    """Follow values of any kind through a model, call by call; return what comes out.

    A nested model is followed wherever it is called, each time with the values of that call;
    only one that is called on constants is left to `step`, as any other operation.

    Example, of how many layers lie before each output at most:

    ```python
    walk(model, [0], lambda node, depths: [1 + max(depths)] * len(node.outputs))
    ```

    Args:
        model: a model with a graph (see `graph_of`).
        inputs: list, a value for each of the graph's `inputs`.
        step: function from a node and the values of the tensors that its operation is called on
            (`node.arguments.keras_tensors`) to a list of values, one for each of `node.outputs`.
        note: function from a tensor of the graph, or of a nested one, and its value to the value
            to go on with.
        inside: function from a node and the values of its tensors to a model of what is called in
            it, to be followed like a nested model; or to None, for what is left to `step`.

    Returns:
        List, a value for each of the graph's `outputs`.
    """
    own = graph_of(model)
    known = {id(tensor): note(tensor, value) for tensor, value in zip(own.inputs, inputs)}
    for node in nodes(own):
        inner, graph = _inner_inputs(node), node.operation
        tensors = node.arguments.keras_tensors if inner is None else inner
        given = [known[id(tensor)] for tensor in tensors]
        if inner is None:
            graph = inside(node, given)
        if graph is None:
            values = step(node, given)
        else:
            values = walk(graph, given, step, note, inside)
        known |= {id(tensor): note(tensor, value) for tensor, value in zip(node.outputs, values)}
    return [known[id(tensor)] for tensor in own.outputs]


def nodes(own_graph):
    """Return the calls in a graph as nodes, inputs left out, in their order."""
    return [node for node in keras_graph.nodes_by_depth(own_graph) if not node.is_input]


def operations(model):
    """Return what is called in a model and in its nested models, these left out, each once."""
    found = {}
    for operation in dict.fromkeys(node.operation for node in nodes(graph_of(model))):
        if graph_of(operation) is None:
            found[operation] = None
        else:
            found |= dict.fromkeys(operations(operation))
    return list(found)


def call_arguments(node, values):
    """Return `(args, kwargs)` of a call, with values in the place of its tensors."""
    tensors = node.arguments.keras_tensors
    return node.arguments.fill_in(dict(zip(map(id, tensors), values)))


def _inner_inputs(node):
    """The tensors that a nested model is called on, in the order of its inputs.

    None for what is no such model, or is called on something else than tensors.
    """
    inner = graph_of(node.operation)
    if inner is None:
        return None
    args, kwargs = node.arguments.args, node.arguments.kwargs
    given = args[0] if args else kwargs["inputs"]
    if isinstance(given, dict):  # By name, in whatever order, and perhaps with more in it.
        by_name = isinstance(inner.input, dict)
        names = inner.input if by_name else [tensor.name for tensor in inner.inputs]
        given = {name: given[name] for name in names} if by_name else [given[n] for n in names]
    flat = keras.tree.flatten(given)
    return flat if all(isinstance(leaf, keras.KerasTensor) for leaf in flat) else None
