"""A `.tflite` file taken apart and put together again.

In two forms: `view` reads single fields from the bytes, in place; `parsed` makes objects of all of
them, to change, and `packed` bytes of those. Damaged bytes raise one of `damaged.DAMAGE`.
"""

import functools
import math

import numpy as np

DTYPES = {0: "float32", 1: "float16", 7: "int16", 9: "int8", 10: "float64"}  # of weights
DTYPES[17] = "int4"


def view(blob):
    """Return the `schema.Model` that reads a file's bytes in place."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(blob)


def parsed(blob):
    """Return a file's bytes as a `schema.ModelT`."""
    from ai_edge_litert.tools import flatbuffer_utils

    # Not its `read_model_from_bytearray`, which renumbers the buffers.
    return flatbuffer_utils.convert_bytearray_to_object(blob)


def packed(model):
    """Return the bytes of a `schema.ModelT`."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def tensors(model):
    """Yield each tensor of all subgraphs of a `schema.Model`."""
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        yield from (graph.Tensors(i) for i in range(graph.TensorsLength()))


def stored(model, tensor):
    """Return what is stored of a constant, as a flat array; int8 for what has 4 bits.

    Args:
        model: the `schema.Model`.
        tensor: a `schema.Tensor` of it, of one of `DTYPES`.
    """
    data, dtype = model.Buffers(tensor.Buffer()).DataAsNumpy(), DTYPES[tensor.Type()]
    if dtype != "int4":
        return data.view(dtype)
    # Two in a byte, the first in its lower half; the last half may be empty.
    halves = np.stack([data << 4, data], 1).reshape(-1).view("int8") >> 4
    return halves[: math.prod(integers(tensor.ShapeAsNumpy()))]


def operator_name(code):
    """Return the name of a `schema.OperatorCode` or `OperatorCodeT`, as in `BuiltinOperator`."""
    from ai_edge_litert.tools import flatbuffer_utils

    return _names().get(flatbuffer_utils.get_builtin_code_from_operator_code(code), "CUSTOM")


@functools.cache
def _names():
    from ai_edge_litert import schema_py_generated as schema

    return {number: name for name, number in vars(schema.BuiltinOperator).items()}


def options(operator, kind):
    """Return the options of a `schema.Operator` as an object; None where it has not that kind.

    Args:
        operator: a `schema.Operator`.
        kind: str, such as `"Conv2DOptions"`.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.get_options_as(operator, getattr(schema, f"{kind}T"))


def integers(vector):
    """Return a flatbuffers vector, which is 0 where it is missing, as a list."""
    return [] if isinstance(vector, int) else vector.tolist()


def opcode(model, name, version):
    """Return the index of an operator among a `ModelT`'s operator codes; added where it is new."""
    from ai_edge_litert import schema_py_generated as schema

    number = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == number and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
