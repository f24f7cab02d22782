"""One walk of a Keras model: its operations in the order of their calls."""

import keras

from kprune._keras import graph


def is_graph(operation):
    """Whether an operation is a Sequential or functional model that adds nothing to its graph."""
    if not (graph.is_functional(operation) or isinstance(operation, keras.Sequential)):
        return False
    plain = (graph.functional_class(), keras.Sequential, keras.Model)
    return type(operation).call in [kind.call for kind in plain]


def graph_of(model):
    """Return the functional graph of a Sequential or functional model."""
    return graph.functional_inside(model) if isinstance(model, keras.Sequential) else model


def nodes(model):
    """Return the nodes of a functional model, inputs left out, in the order of their calls."""
    return [node for node in graph.nodes_by_depth(model) if not node.is_input]


def in_order(model, args, kwargs):
    """Return the arguments of a nested model's call in the order of its inputs."""
    given = args[0] if args else kwargs["inputs"]
    structure = graph_of(model).input
    if isinstance(given, dict) and not isinstance(structure, dict):
        return [given[tensor.name] for tensor in graph_of(model).inputs]
    if isinstance(given, dict):
        given = {name: given[name] for name in structure}
    return keras.tree.flatten(given)


def functional(model):
    """Return the functional model that `model` is or holds; None for a subclassed one."""
    if isinstance(model, keras.Sequential):
        return graph.functional_inside(model)
    return model if graph.is_functional(model) else None
