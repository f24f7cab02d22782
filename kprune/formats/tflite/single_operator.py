"""The operators of a TFLite file, each in a file of its own."""

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
from kprune.formats.tflite.file import operator_name, packed, parsed

_INTEGERS = {2: "int32", 4: "int64"}  # By `schema.TensorType`.
_FLOATS = {0: "float32", 1: "float16"}


def tflite_single_operators(blob):
    """Return a `SingleOperator` for each operator of the first subgraph of a TFLite file.

    One that calls other subgraphs, such as a loop, has them, and their tensors, with it.
    """
    model = parsed(blob)
    graph = model.subgraphs[0]
    reads, makes = (
        [_ints(getattr(o, at)) for o in graph.operators] for at in ("inputs", "outputs")
    )
    order = order_from_outputs(reads, makes, _ints(graph.outputs))
    return [_single(model, graph.operators[i]) for i in order]


def tflite_empty(length=1, size=1):
    """Return a file of so many operators that compute next to nothing: what each costs at least.

    `size` is how many numbers go in, through and out.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.NEG
    code.version = 1
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT() for _ in range(length + 1)]
    for i, tensor in enumerate(graph.tensors):
        tensor.shape, tensor.type, tensor.name = [size], schema.TensorType.FLOAT32, f"t{i}"
        tensor.buffer = 0
    graph.operators = [schema.OperatorT() for _ in range(length)]
    for i, operator in enumerate(graph.operators):
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [i], [i + 1]
    graph.inputs, graph.outputs = [0], [length]
    model.subgraphs = [graph]
    return packed(model)


def _single(model, operator):
    graphs = _called(model, operator)
    parts = [(model.subgraphs[0], operator)]
    for index in graphs:
        graph = model.subgraphs[index]
        parts += [(graph, inner) for inner in graph.operators]
    places = _tensors_of(operator)
    tensors = [model.subgraphs[0].tensors[i] for i in places]
    tensors += [tensor for index in graphs for tensor in model.subgraphs[index].tensors]
    name = operator_name(model.operatorCodes[operator.opcodeIndex])
    said = [_sizes_in(model, tensor) for tensor in tensors]
    shapes = (*(_shape(tensor) for tensor in tensors), *(one for one in said if one is not None))
    kind = [
        [operator_name(model.operatorCodes[part.opcodeIndex]), _said(part)] for _, part in parts
    ] + [[tensor.type, _data(model, tensor) is None] for tensor in tensors]

    def file(new):
        sizes = iter(new[len(tensors) :])
        values = [one if one is None else next(sizes) for one in said]
        return packed(_alone(model, operator, graphs, places, zip(new, values)))

    def work(new):
        return _work(model, tensors, len(operator.outputs), places, new[: len(tensors)])

    return SingleOperator(name, repr(kind), shapes, file, work)


def _called(model, operator):
    """The indices of the subgraphs that an operator calls, and those that these call."""
    options, found = operator.builtinOptions, []
    for field in ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex",
                  "elseSubgraphIndex", "subgraph"):  # fmt: skip
        index = getattr(options, field, None)
        if isinstance(index, int) and index > 0:
            found.append(index)
            for inner in model.subgraphs[index].operators:
                found += [one for one in _called(model, inner) if one not in found]
    return found


def _tensors_of(operator):
    indices = [*_ints(operator.inputs), *_ints(operator.outputs)]
    return list(dict.fromkeys(index for index in indices if index >= 0))


def _ints(vector):
    return [] if vector is None else [int(value) for value in vector]


def _shape(tensor):
    return tuple(_ints(tensor.shape))


def _said(operator):
    """The options of an operator, but for those that follow from its shapes."""
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    following = ("newShape", "depthMultiplier", "condSubgraphIndex", "bodySubgraphIndex")
    said = {key: value for key, value in sorted(options.items()) if key not in following}
    return {key: _ints(v) if isinstance(v, np.ndarray) else v for key, v in said.items()}


def _data(model, tensor):
    """The bytes of a constant, or None."""
    data = model.buffers[tensor.buffer].data if tensor.buffer else None
    return None if data is None or not len(data) else np.asarray(data, "uint8")


def _sizes_in(model, tensor):
    """The values of a constant that may say sizes, as a tuple; or None."""
    data, dtype = _data(model, tensor), _INTEGERS.get(tensor.type)
    if data is None or dtype is None or not says_sizes(dtype, _shape(tensor)):
        return None
    return tuple(data.view(dtype).tolist())


def _work(model, tensors, outputs, places, shapes):
    """Multiply-adds with constants, and the numbers that come in and go out."""
    total = elements(shapes)
    if len(places) == len(tensors) and outputs == 1 and shapes[-1]:
        for tensor, shape in zip(tensors, shapes):
            if len(shape) > 1 and tensor.type in _FLOATS and _data(model, tensor) is not None:
                total += math.prod(shape) * math.prod(shapes[-1]) / max(1, shapes[-1][-1])
    return total


def _alone(model, operator, graphs, places, sizes):
    """A `ModelT` of one operator and the subgraphs that it calls.

    `sizes` iterates over `(shape, values)` of their tensors, with None for those of no constant
    that may say sizes.
    """
    from ai_edge_litert import schema_py_generated as schema

    new = schema.ModelT()
    new.version, new.operatorCodes, new.buffers = 3, model.operatorCodes, [schema.BufferT()]
    main, number = schema.SubGraphT(), {index: i + 1 for i, index in enumerate(graphs)}
    first = model.subgraphs[0]
    main.tensors = [_resized(model, new, first.tensors[i], *next(sizes)) for i in places]
    main.operators = [_moved(operator, {old: i for i, old in enumerate(places)}, number)]
    computed = {i for i, old in enumerate(places) if _data(model, first.tensors[old]) is None}
    inside = main.operators[0]
    main.inputs = [i for i in dict.fromkeys(inside.inputs) if i in computed]
    main.outputs = list(inside.outputs)
    new.subgraphs = [main]
    for index in graphs:
        old, graph = model.subgraphs[index], schema.SubGraphT()
        graph.tensors = [_resized(model, new, tensor, *next(sizes)) for tensor in old.tensors]
        same = {i: i for i in range(len(old.tensors))}
        graph.operators = [_moved(inner, same, number) for inner in old.operators]
        graph.inputs, graph.outputs = _ints(old.inputs), _ints(old.outputs)
        new.subgraphs.append(graph)
    for graph in new.subgraphs:
        for inner in graph.operators:
            _follow(graph, inner)
    return new


def _resized(model, new, tensor, shape, values):
    """A tensor with another shape, its constant in a buffer of the new file."""
    from ai_edge_litert import schema_py_generated as schema

    copied = copy.copy(tensor)
    copied.shape, copied.buffer = list(shape), 0
    if tensor.shapeSignature is not None:  # A loop's tensors may be of a size that changes in it.
        pairs = zip(_ints(tensor.shapeSignature), shape)
        copied.shapeSignature = [-1 if old < 0 else size for old, size in pairs]
    data = _data(model, tensor)
    if data is not None:
        if values is not None:
            data = np.array(values, _INTEGERS[tensor.type]).view("uint8")
        elif tuple(shape) != _shape(tensor):
            dtype = _FLOATS.get(tensor.type) or _INTEGERS.get(tensor.type)
            if dtype is None:
                raise ValueError(f"a constant of type {tensor.type} cannot be resized")
            data = noise(shape, np.dtype(dtype)).reshape(-1).view("uint8")
        buffer = schema.BufferT()
        buffer.data = data
        copied.buffer = len(new.buffers)
        new.buffers.append(buffer)
    return copied


def _moved(operator, tensors, graphs):
    moved = copy.copy(operator)
    moved.inputs = [tensors.get(i, -1) for i in _ints(operator.inputs)]
    moved.outputs = [tensors[i] for i in _ints(operator.outputs)]
    moved.intermediates = None
    moved.builtinOptions = copy.copy(operator.builtinOptions)
    for field in ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex",
                  "elseSubgraphIndex", "subgraph"):  # fmt: skip
        index = getattr(moved.builtinOptions, field, None)
        if index in graphs:
            setattr(moved.builtinOptions, field, graphs[index])
    return moved


def _follow(graph, operator):
    """Have the options that say a size follow the new shapes."""
    options = operator.builtinOptions
    if getattr(options, "newShape", None) is not None:
        options.newShape = list(_shape(graph.tensors[operator.outputs[0]]))
    if getattr(options, "depthMultiplier", None):
        given, made = (_shape(graph.tensors[i]) for i in (operator.inputs[0], operator.outputs[0]))
        options.depthMultiplier = max(1, made[-1] // max(1, given[-1]))
