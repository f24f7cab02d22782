"""Constants of a TFLite file that an operator unpacks: LiteRT does so once, when it loads it."""

import numpy as np


def unpack(schema, model, indices, operator, version=1):
    """Let an operator stand between constants and what reads them.

    Args:
        schema: `ai_edge_litert.schema_py_generated`.
        model: the `schema.ModelT`, changed in place.
        indices: of the constants in its first subgraph. Of those it puts new float32 tensors in
            the place; what the constants hold is the caller's.
        operator: a `schema.BuiltinOperator`.
        version: of the operator.
    """
    graph = model.subgraphs[0]
    code = opcode(schema, model, operator, version)
    new, operators = {}, []
    for index in indices:
        packed, plain = graph.tensors[index], schema.TensorT()
        plain.shape, plain.shapeSignature = packed.shape, packed.shapeSignature
        plain.type, plain.buffer = schema.TensorType.FLOAT32, 0
        plain.name = packed.name + b"_dense"
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


def packed(schema, model):
    """Return the bytes of a `schema.ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def opcode(schema, model, operator, version):
    """Return the index of an operator among a model's operator codes; added where it is new."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == operator and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
