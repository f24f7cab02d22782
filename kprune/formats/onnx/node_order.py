"""Nodes of an ONNX file in an order in which they can run, as the format demands."""

import graphlib


def transform(blob):
    """Sort the nodes: the quantizer's own sort does not see what the graphs inside a node read.

    Args:
        blob: the bytes of an ONNX file.

    Returns:
        The bytes of the sorted file.
    """
    import onnx

    model = onnx.ModelProto.FromString(blob)
    nodes = list(model.graph.node)
    maker = {name: i for i, node in enumerate(nodes) for name in node.output}
    needs = {
        i: {maker[name] for name in _read_by(node) if name in maker} for i, node in enumerate(nodes)
    }
    ordered = [nodes[i] for i in graphlib.TopologicalSorter(needs).static_order()]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model.SerializeToString()


def _read_by(node):
    """The names of the tensors that a node and the graphs inside it read."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names.update(*(_read_by(inner) for inner in attribute.g.node))
            names.update(output.name for output in attribute.g.output)
    return names
