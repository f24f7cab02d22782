"""One walk of a Keras model: its operations in the order of their calls."""

import keras
from keras.src.models.functional import Functional


def is_graph(operation):
    """Whether an operation is a Sequential or functional model that adds nothing to its graph."""
    if not isinstance(operation, Functional | keras.Sequential):
        return False
    return type(operation).call in (Functional.call, keras.Sequential.call, keras.Model.call)


def graph_of(model):
    """Return the functional graph of a Sequential or functional model."""
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes(model):
    """Return the nodes of a functional model, inputs left out, in the order of their calls."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth] if not node.is_input]


def in_order(model, args, kwargs):
    """Return the arguments of a nested model's call in the order of its inputs."""
    given = args[0] if args else kwargs["inputs"]
    structure = graph_of(model)._inputs_struct
    if isinstance(given, dict) and not isinstance(structure, dict):
        return [given[tensor.name] for tensor in graph_of(model).inputs]
    if isinstance(given, dict):
        given = {name: given[name] for name in structure}
    return keras.tree.flatten(given)


def functional(model):
    """Return the functional model that `model` is or holds; None for a subclassed one."""
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None)
    return model if isinstance(model, Functional) else None
