"""What TFLite's quantizer has to leave in float32: see `formats.quantization`."""

import numpy as np

from kprune.formats import quantization
from kprune.formats.tflite.file import operator_name, parsed

_SCALES = ("ADD", "SUB", "MUL", "DIV")
_MOVES = ("CAST", "CONCATENATION", "EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE")


def normalizing(blob):
    """Return the names of the nodes that normalize the inputs feature by feature.

    Args:
        blob: the bytes of a TFLite file in float32.
    """
    file = parsed(blob)
    graph, nodes = file.subgraphs[0], []
    for operator in graph.operators:
        name = operator_name(file.operatorCodes[operator.opcodeIndex])
        values = {int(i): file.buffers[graph.tensors[i].buffer].data for i in operator.inputs}
        constants = [data for data in values.values() if data is not None]
        scales = name in _SCALES and len(constants) == 1
        nodes.append(
            quantization.Node(
                name=graph.tensors[operator.outputs[0]].name.decode(),
                scales=scales,
                moves=name in _MOVES,
                by_feature=scales and len(np.unique(np.asarray(constants[0]).view("int32"))) > 1,
                inputs=[i for i, data in values.items() if data is None],
                outputs=[int(i) for i in operator.outputs],
            )
        )
    return quantization.normalizing(nodes, [int(i) for i in graph.inputs])
