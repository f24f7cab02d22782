"""The operators of an ONNX file, each in a file of its own."""

import copy
import math

import numpy as np

from kprune.formats.single_operator import (
    SingleOperator,
    elements,
    noise,
    order_from_outputs,
    says_sizes,
)

# Attributes that follow from the shapes of the operator's tensors.
_FOLLOWING = ("group", "hidden_size")
_INSIDE = "inside of the node: "


def onnx_single_operators(model, known):
    """Return a `SingleOperator` for each node of an ONNX graph.

    Args:
        model: a `ModelProto`.
        known: dict from names of tensors that are computed to `(shape, NumPy dtype)`.
    """
    from onnx import numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [_Node(model, node, constants, known) for node in model.graph.node]
    outputs = [value.name for value in model.graph.output]
    order = order_from_outputs([n.read for n in nodes], [n.made for n in nodes], outputs)
    return [nodes[i].single() for i in order]


def onnx_empty(length=1):
    """Return a file of so many operators that compute next to nothing: what each costs at least."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{length}")
    )
    graph = helper.make_graph(nodes, "empty", [first], [last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


class _Node:
    """One node, and the names of tensors that it reads and makes."""

    def __init__(self, model, node, constants, known):
        from onnx import numpy_helper

        self.model, self.node, self.known = model, node, known
        inside = {_INSIDE + t.name: numpy_helper.to_array(t) for t in _initializers(node)}
        self.constants = constants = constants | inside
        inner = [name for a in node.attribute if a.HasField("g") for name in _captured(a.g)]
        read = [name for name in [*node.input, *inner] if name in constants or name in known]
        self.read = list(dict.fromkeys([*read, *inside]))
        self.made = [name for name in node.output if name in known]
        self.names = [*self.read, *self.made]
        self._saying = [
            name
            for name in self.read
            if name in constants and says_sizes(constants[name].dtype, constants[name].shape)
        ]

    def single(self):
        """Return the `SingleOperator`."""
        said = [tuple(self.constants[name].ravel().tolist()) for name in self._saying]
        shapes = (*(self._of(name)[0] for name in self.names), *said)
        types = [(str(self._of(name)[1]), name in self.constants) for name in self.names]
        options = [
            [i.op_type for i in a.g.node] if a.HasField("g") else a.SerializeToString().hex()
            for a in self.node.attribute
            if a.name not in _FOLLOWING
        ]
        given = [bool(name) for name in self.node.input]
        kind = repr([self.node.domain, self.node.op_type, options, given, types])
        return SingleOperator(self.node.op_type, kind, shapes, self.file, self.work)

    def _of(self, name):
        if name in self.constants:
            value = self.constants[name]
            return tuple(value.shape), value.dtype
        shape, dtype = self.known[name]
        return tuple(shape), np.dtype(dtype)

    def work(self, shapes):
        """Multiply-adds with constants, and the numbers that come in and go out."""
        shapes = shapes[: len(self.names)]
        total, sized = elements(shapes), dict(zip(self.names, shapes))
        if len(self.made) == 1 and sized[self.made[0]]:
            out = sized[self.made[0]]
            channels = out[1] if "Conv" in self.node.op_type and len(out) > 1 else out[-1]
            for name in self.read:
                constant = self.constants.get(name)
                if constant is not None and constant.dtype.kind == "f" and constant.ndim > 1:
                    total += math.prod(sized[name]) * math.prod(out) / max(1, channels)
        return total

    def file(self, shapes):
        """Return the bytes of a file with this node alone, its tensors of these shapes."""
        from onnx import helper, numpy_helper

        sized = dict(zip(self.names, map(tuple, shapes)))
        node = copy.deepcopy(self.node)
        values = {
            name: value if value.shape == sized[name] else noise(sized[name], value.dtype)
            for name, value in self.constants.items()
            if name in sized
        }
        for name, said in zip(self._saying, shapes[len(self.names) :]):
            values[name] = np.array(said, values[name].dtype).reshape(sized[name])
        self._follow(node, sized)
        for tensor in _initializers(node):
            value = values.pop(_INSIDE + tensor.name)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

        def info(name, shape):
            kind = helper.np_dtype_to_tensor_dtype(self._of(name)[1])
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(
            [node],
            "operator",
            [info(name, sized[name]) for name in self.read if name not in self.constants],
            [info(name, None) for name in self.made],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = self.model.ir_version
        return model.SerializeToString()

    def _follow(self, node, sized):
        """Have the attributes that say a size follow the new shapes."""
        inputs = [sized.get(name) for name in node.input]
        if node.op_type in ("Conv", "FusedConv"):
            _set(node, "group", inputs[0][1] // inputs[1][1])
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            _set(node, "hidden_size", inputs[2][-1])


def _set(node, name, value):
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = int(value)


def _initializers(node):
    """The constants of the graphs inside of a node; what these say of shapes is cleared."""
    for graph in (a.g for a in node.attribute if a.HasField("g")):
        del graph.value_info[:]
        for value in [*graph.input, *graph.output]:
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("dim_value")
        yield from graph.initializer
        for inner in graph.node:
            yield from _initializers(inner)


def _captured(graph):
    """The names that a subgraph reads from outside of it."""
    made = {t.name for t in [*graph.input, *graph.initializer]}
    found = []
    for node in graph.node:
        inner = [name for a in node.attribute if a.HasField("g") for name in _captured(a.g)]
        found += [name for name in [*node.input, *inner] if name and name not in made]
        made |= set(node.output)
    return found + [t.name for t in graph.output if t.name not in made]
