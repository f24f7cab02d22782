"""The layer that an operator of a `.tflite` file was, as far as its tensors' names tell."""

_NAMELESS = ("StatefulPartitionedCall", "arith.constant", "?")
_PRODUCTS = ("convolution", "depthwise", "MatMul", "separable_conv2d")


def operator_layer(file, operator, is_constant=None):
    """Return the layer that an operator's tensors, whose names are paths of scopes, speak of.

    Outputs of the file are named after the call; there a bias or kernel may tell.

    Args:
        file: a `FirstSubgraph`.
        operator: an `Operator` of it.
        is_constant: function from a tensor's index to whether it is a constant; by default
            whether the file stores it.
    """
    is_constant = is_constant or (lambda index: file.stored_bytes(index) > 0)
    constants = [index for index in reversed(operator.inputs) if is_constant(index)]
    names = [_tensor_layer(file.name(index)) for index in [*operator.outputs[:1], *constants]]
    return next((name for name in names if not name.startswith(_NAMELESS)), (names or ["?"])[0])


def _tensor_layer(name):
    # What was fused into the operator is named, too: an activation, a bias, the layer.
    parts = [part for part in name.split(";") if part] or ["?"]
    kernels = [part for part in parts if part.rpartition("/")[2].startswith(_PRODUCTS)]
    return layer_name((kernels or parts)[0])


def layer_name(text):
    """Shorten a tensor's name, `model_1/block/conv_1/Relu`, to its layer's, `block/conv_1`."""
    parts = [part for part in text.split("/") if part]
    if len(parts) > 2:
        parts = parts[1:-1]
    elif len(parts) > 1:
        parts = parts[:-1] if parts[0] != "StatefulPartitionedCall" else parts[1:]
    return "/".join(parts) or text
