"""What ONNX Runtime's quantizer has to leave in float32, and what it did leave."""

from kprune.formats import quantization

_MOVES = ("Cast", "Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather", "Loop")


def normalizing(blob):
    """Return the names of the nodes that normalize the inputs feature by feature.

    Args:
        blob: the bytes of an ONNX file in float32; see `formats.quantization`.
    """
    import onnx

    graph = onnx.ModelProto.FromString(blob).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        values = [constants[name] for name in node.input if name in constants]
        nodes.append(
            quantization.Node(
                name=node.name,
                scales=node.op_type in ("Add", "Sub", "Mul", "Div") and len(values) == 1,
                moves=node.op_type in _MOVES,
                by_feature=any(value.min() < value.max() for value in values if value.size),
                inputs=[name for name in node.input if name and name not in constants],
                outputs=list(node.output),
            )
        )
    inputs = [value.name for value in graph.input if value.name not in constants]
    return [name for name in quantization.normalizing(nodes, inputs) if name]


def left_in_float(blob):
    """Return the types of the operators whose weights the file stores in float32, sorted."""
    import onnx

    graphs, constants, found = [onnx.ModelProto.FromString(blob).graph], set(), set()
    while graphs:
        graph = graphs.pop()
        sparse = (tensor.values for tensor in graph.sparse_initializer)
        constants |= {
            tensor.name for tensor in sparse if tensor.data_type == onnx.TensorProto.FLOAT
        }
        constants |= {
            tensor.name
            for tensor in graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
        }
        for node in graph.node:
            graphs += [each.g for each in node.attribute if each.HasField("g")]
            # A loop is given the weights that it multiplies with, among others.
            weights = node.input if node.op_type == "Loop" else node.input[:3]
            if node.op_type in _WEIGHTED and constants.intersection(weights):
                found.add(node.op_type)
    return sorted(found)
