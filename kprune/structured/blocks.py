"""Blocks: parts of a model that can be bypassed, since what comes out is like what went in."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kprune._keras.graph import has_mask, operation_class
from kprune._keras.layers import flatten_layers
from kprune.graphs.flops import operation_flops
from kprune.graphs.rebuild import left_out
from kprune.graphs.walk import call_arguments, graph_of, nodes
from kprune.report import tables
from kprune.report.tables import Printable

# Not blocks by themselves: they belong to a non-linearity or a norm that would stay.
_PARTS = (
    keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D,
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D, keras.layers.SeparableConv2D, keras.layers.Embedding,
)  # fmt: skip
_PROBED_LENGTH = 24


@dataclasses.dataclass(eq=False)
class RemovableBlock:
    """A part of a model that can be bypassed: its output is replaced by its input.

    Attributes:
        name: of the addition that ends it, or of the layer that it is.
        kind: "residual": x + f(x), of which x stays; "layer": a layer or nested model whose
            output has the shape of its input.
        layers: list of str, the layers with weights inside.
        parameters: int, weights that leave with it.
        flops: int, FLOPs that leave with it.
        score: float, its importance; None if it was not scored.
        source: the `keras.KerasTensor` that goes in.
        end: the node whose output is replaced.
        inside: dict from the ids of the nodes of its graph that leave to the nodes, `end` among
            them.
        covered: set of the ids of those and of the nodes of the models nested in it.
    """

    name: str
    kind: str
    layers: list
    parameters: int
    flops: int
    source: Any
    end: Any
    inside: dict
    covered: set
    score: float | None = None

    @property
    def output(self) -> keras.KerasTensor:
        """The tensor that `source` takes the place of."""
        return self.end.outputs[0]

    @property
    def bypass(self) -> Callable[[Any], Any]:
        """What makes the output of `source`: the same tensor, but with no mask if it had none."""
        loses_mask = has_mask(self.source) and not has_mask(self.output)
        return keras.ops.copy if loses_mask else left_out

    def overlaps(self, other: "RemovableBlock") -> bool:
        """Whether a call is in both; a model that both call, each on its own, is not."""
        nested = id(self.end) in other.covered or id(other.end) in self.covered
        return nested or bool(self.inside.keys() & other.inside.keys())

    def to_dict(self) -> dict[str, Any]:
        """Return what it is as plain data."""
        names = ("name", "kind", "layers", "parameters", "flops", "score")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(repr=False)
class BlockReport(Printable):
    """The blocks of a model; prints as a table.

    Attributes:
        model: the model's name.
        blocks: list of `RemovableBlock`s, in the order of the graph.
        flops: int, FLOPs of the whole model.
        criterion: what the scores are by; None if there are none.
    """

    model: str
    blocks: list
    flops: int
    criterion: str | None = None

    def __iter__(self) -> Iterator[RemovableBlock]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.model,
            "flops": self.flops,
            "criterion": self.criterion,
            "blocks": [block.to_dict() for block in self.blocks],
        }

    def __rich__(self):
        rows = [
            (
                block.name,
                block.kind,
                tables.listed(block.layers, 3),
                tables.count(block.parameters),
                tables.scaled(block.flops),
                tables.percent(block.flops / self.flops if self.flops else None),
                tables.MISSING if block.score is None else f"{block.score:.4g}",
            )
            for block in self.blocks
        ]
        notes = ["A block can be bypassed: its output is replaced by its input."]
        if self.criterion:
            notes.append(f"score: by {self.criterion}; the lowest leaves first.")
        return tables.table(
            ["block", "kind", "layers", ">weights", ">FLOPs", ">share", ">score"],
            rows,
            title=f"Blocks of {self.model}: {len(rows)}",
            notes=notes,
        )


def blocks_of(model, sizes=None):
    """Return the `RemovableBlock`s of a Sequential or functional model, in the order of its graph.

    Those in nested models are among them. Blocks may lie inside one another.

    Args:
        model: a model with a graph (see `graph_of`).
        sizes: the `input_shape` to count FLOPs at, every dimension known.
    """
    graphs = _graphs(graph_of(model))
    try:
        costs = operation_flops(model, sizes)
    except ValueError:  # Nothing that can be counted; what can be bypassed is known anyway.
        costs = {}
    calls, behind = _calls(graphs[0]), _only_shaped_after(graphs[0])
    found, residual = [], set()
    for own in graphs:  # A nested one after the one around it.
        is_whole = own is graphs[0]
        graph = _Graph(own)
        spans = [span for node in nodes(own) for span in graph.spans(node)]
        for kind, *_, inside in spans:
            residual.update(_with_nested(inside) if kind == "residual" else ())
        for kind, source, end, inside in spans:
            if is_whole and graph.is_output(end.outputs[0]):
                continue  # What the model gives out is its own.
            if kind == "layer" and (id(end) in residual or id(end.outputs[0]) in behind):
                continue  # A part of a block, or what makes the model's outputs.
            covered = _with_nested(inside)
            layers = _layers(covered)
            if any(len(w.shape) > 1 for layer in layers for w in layer.weights):
                names = [layer.name for layer in layers]
                size = sum({id(w): math.prod(w.shape) for x in layers for w in x.weights}.values())
                cost = round(calls[id(own)] * _flops(inside.values(), costs, calls))
                if kind == "layer" and costs and not cost:
                    continue  # It looks something up, as a table of positions does.
                name = end.operation.name
                found.append(
                    RemovableBlock(name, kind, names, size, cost, source, end, inside, set(covered))
                )
    return found


class _Graph:
    """Who depends on whom in one graph, nested models being single nodes."""

    def __init__(self, own):
        self._outputs = {id(tensor) for tensor in own.outputs}
        self._nodes = nodes(own)
        self._maker = {id(t): node for node in self._nodes for t in node.outputs}
        self._takers = {}
        for node in self._nodes:
            for tensor in node.arguments.keras_tensors:
                self._takers.setdefault(id(tensor), []).append(node)
        self._before = {}  # From the id of a tensor to those of all tensors it is made from.
        for node in self._nodes:
            taken = node.arguments.keras_tensors
            before = set().union(*(self._before.get(id(t), set()) | {id(t)} for t in taken))
            self._before.update((id(tensor), before) for tensor in node.outputs)

    def is_output(self, tensor):
        """Whether the graph gives a tensor out."""
        return id(tensor) in self._outputs

    def spans(self, node):
        """Yield `(kind, source, end, inside)` of what ends in a node and can be bypassed."""
        taken = node.arguments.keras_tensors
        if len(node.outputs) != 1 or not taken:
            return
        if isinstance(node.operation, (keras.layers.Add, operation_class("Add"))):
            for source in taken:
                others = [tensor for tensor in taken if tensor is not source]
                inside = self._between(source, others)
                if inside is not None and _alike(source, node.outputs[0]):
                    yield "residual", source, node, {**inside, id(node): node}
        elif _is_block(node) and _alike(taken[0], node.outputs[0]) and _keeps_length(node):
            yield "layer", taken[0], node, {id(node): node}

    def _between(self, source, ends):
        """The nodes from a tensor to others, by id; None if that is not all they are for."""
        if not ends or any(id(source) not in self._before.get(id(end), ()) for end in ends):
            return None
        inside, pending = {}, list(ends)
        while pending:
            tensor = pending.pop()
            node = self._maker[id(tensor)]
            if id(node) not in inside:
                inside[id(node)] = node
                pending += [
                    t
                    for t in node.arguments.keras_tensors
                    if t is not source and id(source) in self._before.get(id(t), ())
                ]
        inside = {id(node): node for node in self._nodes if id(node) in inside}  # In their order.
        last = {id(end) for end in ends}
        for tensor in (t for node in inside.values() for t in node.outputs):
            outside = [n for n in self._takers.get(id(tensor), ()) if id(n) not in inside]
            if self.is_output(tensor) or len(outside) != (id(tensor) in last):
                return None
        return inside


def _alike(source, output):
    return (
        tuple(source.shape) == tuple(output.shape)
        and source.dtype == output.dtype
        and source.sparse == output.sparse
    )


def _is_block(node):
    """Whether an operation does enough to be a block: a layer or model with a kernel."""
    layer = node.operation
    if not isinstance(layer, keras.Layer):
        return False
    inner = layer
    while isinstance(inner, keras.layers.Wrapper):
        inner = inner.layer
    return not isinstance(inner, _PARTS) and any(len(w.shape) > 1 for w in layer.weights)


def _keeps_length(node):
    """Whether dynamic dimensions, too, come out as they went in."""
    source = node.arguments.keras_tensors[0]
    if None not in source.shape[1:]:
        return True
    concrete = [
        keras.KerasTensor([n or _PROBED_LENGTH for n in t.shape], t.dtype)
        for t in node.arguments.keras_tensors
    ]
    args, kwargs = call_arguments(node, concrete)
    try:
        output = node.operation.compute_output_spec(*args, **kwargs)
    except Exception:  # Of a layer of anyone's: then it is not known to.
        return False
    return tuple(output.shape[1:]) == tuple(concrete[0].shape[1:])


def _graphs(own):
    """The graph and those of the models nested in it, each once."""
    found = {id(own): own}
    for node in nodes(own):
        inner = graph_of(node.operation)
        if inner is not None:
            found |= {id(graph): graph for graph in _graphs(inner)}
    return list(found.values())


def _with_nested(inside):
    """The nodes by id, those of nested models among them."""
    found = dict(inside)
    for node in inside.values():
        inner = graph_of(node.operation)
        if inner is not None:
            found |= _with_nested({id(n): n for n in nodes(inner)})
    return found


def _layers(covered):
    """The layers with weights that some nodes call, each once."""
    called = dict.fromkeys(node.operation for node in covered.values())
    return [
        operation
        for operation in called
        if isinstance(operation, keras.Layer) and operation.weights and graph_of(operation) is None
    ]


def _calls(own, found=None):
    """How often each graph and operation is called in one run of the model, by id."""
    found = collections.Counter() if found is None else found
    found[id(own)] += 1
    for node in nodes(own):
        inner = graph_of(node.operation)
        if inner is None:
            found[id(node.operation)] += 1
        else:
            _calls(inner, found)
    return found


def _only_shaped_after(own, found=None):
    """The ids of tensors that reach an output of the model with no weights on the way."""
    found = {id(tensor) for tensor in own.outputs} if found is None else found
    for node in reversed(nodes(own)):
        if found.isdisjoint(map(id, node.outputs)):
            continue
        inner = graph_of(node.operation)
        if inner is not None:
            found.update(map(id, inner.outputs))
            _only_shaped_after(inner, found)
        if not getattr(node.operation, "weights", ()):
            found.update(map(id, node.arguments.keras_tensors))
    return found


def _flops(inside, costs, calls):
    """FLOPs of some nodes in one call of their graph."""
    total = 0.0
    for operation in (node.operation for node in inside):
        inner = graph_of(operation)
        if inner is not None:
            total += _flops(nodes(inner), costs, calls)
        else:
            is_layer = isinstance(operation, keras.Layer)
            parts = flatten_layers(operation) if is_layer else [operation]
            total += sum(costs.get(id(part), 0) for part in parts) / calls[id(operation)]
    return total
