"""What the exactness tests need: random weights, random inputs, channels set to zero."""

import keras
import numpy as np

from kprune.graphs.walk import graph_of
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from tests.helpers.topologies import VOCABULARY


def randomize(model, seed=0):
    """Give every weight of a model a random value, the statistics and biases too."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith(("int", "uint")):
            continue
        shape = tuple(variable.shape)
        if variable.path.endswith(("variance", "gamma", "scale")):
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = np.prod(shape[: 2 if depthwise else -1])
            value = random.normal(0, 1.2 / np.sqrt(fan_in), shape)
        else:
            value = random.normal(0, 0.3, shape)
        variable.assign(value.astype("float32"))


def random_inputs(model, batch=3, seed=0):
    """Random inputs in the structure that the model takes."""
    random = np.random.default_rng(seed)

    def one(tensor):
        shape = (batch, *(n or 6 for n in tensor.shape[1:]))
        if tensor.dtype.startswith("int"):
            return random.integers(0, VOCABULARY, shape).astype(tensor.dtype)
        return random.normal(0, 1, shape).astype(tensor.dtype)

    return keras.tree.map_structure(one, graph_of(model)._inputs_struct)


def outputs(model, inputs):
    """The outputs of a model, as a flat list of arrays."""
    found = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(output).astype("float32") for output in found]


def graph_and_groups(model):
    graph = ChannelGraph(model)
    return graph, find_groups(graph)


def choose(groups, seed):
    """Some channels of some groups: a list of `(group, bool array of what goes)`."""
    random = np.random.default_rng(seed)
    chosen = []
    for group in groups:
        gone = random.random(group.channels) < random.choice([0.0, 0.3, 0.6])
        if gone.all():
            gone[random.integers(group.channels)] = False
        chosen.append((group, gone))
    return chosen


def mask(chosen):
    """Set the channels that go to zero, in place, wherever they are made and taken."""
    for group, gone in chosen:
        for slot in group.slots:
            variable = slot.use.variable
            if variable is None:
                continue
            there = np.append(gone, False)[slot.index]
            value = np.array(keras.ops.convert_to_numpy(variable))
            np.moveaxis(value, slot.axis, 0)[there] = 0
            variable.assign(value)


def gone_of(chosen):
    """What `cut` is told to remove."""
    return np.concatenate([group.roots[gone] for group, gone in chosen])
