"""Constants of a TFLite file that an operator unpacks: LiteRT does so once, when it loads it."""

import numpy as np

from kprune.formats.tflite.file import opcode


def unpack(model, indices, operator, version=1):
    """Let an operator stand between constants and what reads them.

    Args:
        model: the `schema.ModelT`, changed in place.
        indices: of the constants in its first subgraph. Of those it puts new float32 tensors in
            the place; what the constants hold is the caller's.
        operator: its name in `schema.BuiltinOperator`.
        version: of the operator.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    code = opcode(model, operator, version)
    new, operators = {}, []
    for index in indices:
        constant, plain = graph.tensors[index], schema.TensorT()
        plain.shape, plain.shapeSignature = constant.shape, constant.shapeSignature
        plain.type, plain.buffer = schema.TensorType.FLOAT32, 0
        plain.name = constant.name + b"_dense"
        graph.tensors.append(plain)
        new[index] = len(graph.tensors) - 1
        one = schema.OperatorT()
        one.opcodeIndex = code
        one.inputs = np.array([index], "int32")
        one.outputs = np.array([new[index]], "int32")
        operators.append(one)
    for reader in graph.operators:
        reader.inputs = np.array([new.get(int(i), int(i)) for i in reader.inputs], "int32")
    graph.operators = operators + graph.operators
