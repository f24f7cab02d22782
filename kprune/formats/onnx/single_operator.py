"""The operators of an ONNX file, each in a file of its own."""

import copy
import math

import numpy as np

from kprune.formats.single_operator import SingleOperator, elements, noise, scaled

# Attributes that follow from the shapes of the operator's tensors.
_SIZED = (
    "Reshape",
    "Expand",
    "ConstantOfShape",
    "Tile",
    "Pad",
    "Split",
    "Slice",
)  # So are integers.
_FOLLOWING = ("group", "hidden_size", "split")


def onnx_single_operators(model, known):
    """Return a `SingleOperator` for each node of an ONNX graph.

    Args:
        model: a `ModelProto`.
        known: dict from names of tensors that are computed to `(shape, NumPy dtype)`.
    """
    from onnx import numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [_Node(model, node, constants, known).single() for node in model.graph.node]


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
        self.model, self.node, self.constants, self.known = model, node, constants, known
        inner = [name for a in node.attribute if a.HasField("g") for name in _captured(a.g)]
        read = [name for name in [*node.input, *inner] if name in constants or name in known]
        self.read = list(dict.fromkeys(read))
        self.made = [name for name in node.output if name in known]
        self.names = [*self.read, *self.made]

    def single(self):
        """Return the `SingleOperator`."""
        shapes = tuple(self._of(name)[0] for name in self.names)
        types = [(str(self._of(name)[1]), self._value_kind(name)) for name in self.names]
        said = sorted(
            a.SerializeToString().hex() for a in self.node.attribute if a.name not in _FOLLOWING
        )
        given = [bool(name) for name in self.node.input]
        kind = repr([self.node.domain, self.node.op_type, said, given, types])
        return SingleOperator(self.node.op_type, kind, shapes, self.file, self.work)

    def _value_kind(self, name):
        """What a tensor holds: computed numbers, noise, or the very integers of, say, axes."""
        if name not in self.constants:
            return "computed"
        value = self.constants[name]
        if value.dtype.kind != "i" or self.node.op_type in _SIZED:
            return "constant"
        return value.ravel()[:32].tolist()

    def _of(self, name):
        if name in self.constants:
            value = self.constants[name]
            return tuple(value.shape), value.dtype
        shape, dtype = self.known[name]
        return tuple(shape), np.dtype(dtype)

    def work(self, shapes):
        """Multiply-adds with constants, and the numbers that come in and go out."""
        total, sized = elements(shapes), dict(zip(self.names, shapes))
        if len(self.made) == 1 and sized[self.made[0]]:
            out = sized[self.made[0]]
            channels = out[1] if "Conv" in self.node.op_type and len(out) > 1 else out[-1]
            for name in self.read:
                if name in self.constants and len(sized[name]) > 1:
                    if self.constants[name].dtype.kind == "f":
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
        self._follow(node, values, sized)

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

    def _follow(self, node, values, sized):
        """Have the attributes and constants that say a size follow the new shapes."""
        inputs = [sized.get(name) for name in node.input]
        out = sized[self.made[0]] if self.made else ()
        kind = node.op_type
        if kind in ("Conv", "FusedConv", "ConvTranspose"):
            groups = inputs[0][1] // inputs[1][1] if kind != "ConvTranspose" else None
            _set(node, "group", groups)
        elif kind in ("LSTM", "GRU", "RNN"):
            _set(node, "hidden_size", inputs[2][-1])
        elif kind in ("Reshape", "Expand"):
            self._assign(node, values, 1, out)
        elif kind == "ConstantOfShape":
            self._assign(node, values, 0, out)
        elif kind == "Tile":
            self._assign(node, values, 1, [o // max(1, i) for o, i in zip(out, inputs[0])])
        elif kind == "Pad":
            self._pad(node, values, inputs[0], out)
        elif kind == "Split":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            self._assign(node, values, 1, [sized[name][axis] for name in self.made])
        elif kind == "Slice":
            self._slice(node, values, inputs[0])

    def _assign(self, node, values, position, wanted):
        name = node.input[position] if position < len(node.input) else ""
        if name in values:
            values[name] = np.array(wanted, values[name].dtype).reshape(-1)

    def _pad(self, node, values, given, out):
        name = node.input[1] if len(node.input) > 1 else ""
        if name in values and len(values[name]) == 2 * len(given):
            pads = values[name].copy().reshape(2, -1)
            for i, (one, other) in enumerate(zip(given, out)):
                if one + pads[:, i].sum() != other:
                    before = min(int(pads[0, i]), other - one)
                    pads[:, i] = before, other - one - before
            values[name] = pads.reshape(-1)

    def _slice(self, node, values, now):
        old = self._of(node.input[0])[0]
        axes = values.get(node.input[3]) if len(node.input) > 3 else None
        axes = range(len(old)) if axes is None else axes.tolist()
        for name in node.input[1:3]:
            if name in values:  # An end far behind the last position stays so.
                moved = [
                    v if v >= old[a] else scaled(v, old[a], now[a])
                    for v, a in zip(values[name].tolist(), axes)
                ]
                values[name] = np.array(moved, values[name].dtype)


def _set(node, name, value):
    for attribute in node.attribute:
        if attribute.name == name and value is not None:
            attribute.i = int(value)


def _captured(graph):
    """The names that a subgraph reads from outside of it."""
    made = {t.name for t in [*graph.input, *graph.initializer]}
    found = []
    for node in graph.node:
        inner = [name for a in node.attribute if a.HasField("g") for name in _captured(a.g)]
        found += [name for name in [*node.input, *inner] if name and name not in made]
        made |= set(node.output)
    return found + [t.name for t in graph.output if t.name not in made]
