"""Which operators XNNPACK can compute with the channels first (src/subgraph.c), and why not."""

import dataclasses

from kprune.targets.graph import SAME, Op

# It works with the channels first; may begin a cluster; may end one.
NCHW, ENTRY, EXIT = 1, 2, 4
_SYMMETRIC = {3: ((1, 1), (1, 1)), 5: ((2, 2), (2, 2))}


@dataclasses.dataclass(eq=False)
class Blame:
    """Why a cluster ends, or is none: an operator, and a sentence that goes on after its name."""

    op: Op
    reason: str
    advice: str = ""


def compatibility(op, padding):
    """Return XNNPACK's layout flags of an operator, and a `Blame` where there are none.

    Args:
        op: an `Op`.
        padding: its padding, with that of a PAD before it, which becomes a part of it.
    """
    floating = all(value.floating for value in [*op.inputs, *op.outputs])
    if not floating and op.kind != "other":
        return 0, Blame(op, "computes in integers; the sparse kernels are for floats")
    if op.weight is not None and op.weight.encoding == "blocks":
        return 0, Blame(op, "is stored in blocks, for a kernel outside XNNPACK")
    rule = _RULES.get(op.kind)
    if rule is None:
        return 0, Blame(op, f"({op.type}) is not in the sparse path")
    return rule(op, padding)


def _conv(op, padding):
    if op.groups != 1:
        return 0, Blame(op, "has groups")
    if op.dilation != (1, 1):
        return 0, Blame(op, "is dilated")
    if op.kernel == (1, 1):
        if op.strides != (1, 1):
            return 0, Blame(op, "is a 1x1 convolution with strides", "use strides=1")
        return NCHW, None
    if op.kernel != (3, 3):
        size = "x".join(map(str, op.kernel))
        return 0, Blame(op, f"is a {size} convolution; only 1x1 has a sparse kernel")
    if op.strides != (2, 2) or op.inputs[0].shape[-1] != 3:
        return 0, Blame(
            op,
            "is a 3x3 convolution; only 1x1 has a sparse kernel, and only one of stride 2 on 3 "
            "channels may begin the sparse path",
        )
    if padding != _SYMMETRIC[3]:
        shown = _shown(padding)
        return 0, Blame(
            op,
            f"begins with {shown} at stride 2, where padding 1 on each side is needed",
            "before training, model, _ = kprune.prepare(model, target)",
        )
    return ENTRY, None


def _depthwise(op, padding):
    if op.dilation != (1, 1):
        return 0, Blame(op, "is dilated")
    if op.multiplier != 1:
        return 0, Blame(op, f"has depth_multiplier={op.multiplier}")
    if op.strides not in ((1, 1), (2, 2)):
        return 0, Blame(op, f"has strides {op.strides}")
    size = op.kernel[0]
    if op.kernel[0] != op.kernel[1] or size not in _SYMMETRIC:
        shown = "x".join(map(str, op.kernel))
        return 0, Blame(op, f"is a {shown} depthwise convolution; 3x3 and 5x5 are in it")
    if padding != _SYMMETRIC[size]:
        return 0, Blame(
            op,
            f"(depthwise) uses {_shown(padding)} at stride {op.strides[0]}",
            f"write ZeroPadding2D({size // 2}) + valid, or let the export rewrite it",
        )
    return NCHW, None


def _shown(padding):
    return "`same` padding" if padding == SAME else f"padding {padding}"


def _binary(op, padding):
    if any(len(value.shape) != 4 for value in op.inputs) or len(op.inputs) != 2:
        return 0, Blame(op, f"({op.type}) has an operand that is no image")
    # XNNPACK looks at the first operand's shape for both (src/subgraph.c).
    constant = any(value.constant for value in op.inputs)
    if constant and sum(size != 1 for size in op.inputs[0].shape[1:]) > 1:
        return 0, Blame(op, f"({op.type}) has a constant operand")
    return NCHW, None


def _image(flags):
    def rule(op, padding):
        if len(op.inputs[0].shape) != 4:
            return 0, Blame(op, f"({op.type}) is not on an image")
        return flags, None

    return rule


def _dense(op, padding):
    # The delegate puts a reshape before a dense layer on vectors, and that is not in the path.
    if len(op.inputs[0].shape) != 4 or len(op.outputs[0].shape) != 4:
        return 0, Blame(op, "is a dense layer on vectors, not on an image")
    return NCHW, None


def _resize(op, padding):
    if any(size is not None and size < 2 for size in op.inputs[0].shape[1:3]):
        return 0, Blame(op, "resizes an image of one pixel")
    return NCHW, None


_RULES = {
    "dense": _dense,
    "conv": _conv,
    "depthwise": _depthwise,
    "depth_to_space": lambda op, padding: (EXIT, None),
    "add": _binary,
    "multiply": _binary,
    "resize": _resize,
    "unary": _image(NCHW),
    "mean": _image(NCHW | EXIT),
}
