"""Model files that are valid, and that nobody should run."""

import numpy as np


def onnx_file(path, nodes, constants, dims=(1, 4)):
    """Write a file that makes `y` of `x`, as it is told."""
    import onnx

    x, y = (
        onnx.helper.make_tensor_value_info(name, 1, size)
        for name, size in (("x", dims), ("y", None))
    )
    known = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], known)
    opsets = [onnx.helper.make_opsetid("", 18)]
    made = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


def endless(path):
    """Write an ONNX file that runs, and does not end."""
    from onnx import helper

    kinds = {"i": 7, "go": 9, "v": 1, "go_on": 9, "sine": 1}
    tensors = [
        helper.make_tensor_value_info(name, kind, [1, 4] if kind == 1 else [])
        for name, kind in kinds.items()
    ]
    steps = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Sin", ["v"], ["sine"]),
    ]
    body = helper.make_graph(steps, "body", tensors[:3], tensors[3:])
    loop = helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body)
    return onnx_file(path, [loop], {"times": 2**62, "true": True})
