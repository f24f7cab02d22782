"""A small graph of operators, the same for a Keras model and for a `.tflite` file.

What decides whether a runtime's sparse kernels apply are a dozen kinds of operators, their
shapes, strides and padding, who consumes their outputs, and how many of their weights are zero.
"""

import dataclasses
import math

SAME = "same"  # padding that the runtime works out: not the same on both sides, in general


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor between operators.

    Attributes:
        shape: ints; None where dynamic.
        constant: whether it is stored in the model.
        external: whether it comes from outside: an input of the model.
        output: whether it is an output of the model.
        floating: whether it holds floats.
    """

    shape: tuple
    constant: bool = False
    external: bool = False
    output: bool = False
    floating: bool = True


@dataclasses.dataclass
class Weight:
    """The kernel of an operator.

    Attributes:
        size: number of entries.
        zeros: how many of them are zero.
        encoding: how it is stored: `"dense"`; `"csr"`, sparse, and made dense when the file is
            loaded; `"blocks"`, sparse in 1x4 blocks, as a kernel of its own reads it.
        kept: how many entries are in the blocks that are stored, with `"blocks"`.
        dtype: what an operator of a file reads it as, or `"float16"` where it is stored so.
    """

    size: int
    zeros: int
    encoding: str = "dense"
    kept: int | None = None
    dtype: str = "float32"

    @property
    def sparsity(self):
        """Share of zeros, a fraction."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(eq=False)
class Op:
    """An operator.

    Attributes:
        name: of the layer, or of the operator's output in a file.
        kind: `"conv"`, `"depthwise"`, `"dense"`, `"pad"`, `"add"`, `"multiply"`, `"unary"`,
            `"mean"` (or a sum), `"resize"` (bilinear), `"depth_to_space"` or `"other"`.
        type: what the model or the file calls it, for people.
        inputs: `Value`s, kernels and biases left out.
        outputs: `Value`s.
        kernel, strides, dilation: (height, width).
        padding: ((top, bottom), (left, right)), or `SAME`.
        groups, multiplier: of a convolution, of a depthwise one.
        axes, keepdims: of a mean.
        weight: a `Weight`, or None.
    """

    name: str
    kind: str
    type: str
    inputs: list
    outputs: list
    kernel: tuple = (1, 1)
    strides: tuple = (1, 1)
    dilation: tuple = (1, 1)
    padding: tuple | str = ((0, 0), (0, 0))
    groups: int = 1
    multiplier: int = 1
    axes: tuple = ()
    keepdims: bool = False
    weight: Weight | None = None

    @property
    def pointwise(self):
        """Whether it is a 1x1 convolution, or a dense layer: what sparse kernels are for."""
        return self.kind == "dense" or (self.kind == "conv" and max(self.kernel) == 1)

    @property
    def macs(self):
        """Multiply-adds of one example; 0 for what has no kernel or no known shape."""
        if self.weight is None:
            return 0
        positions = self.outputs[0].shape[1:-1] if self.outputs[0].shape else ()
        return self.weight.size * math.prod(size or 1 for size in positions)


class Graph:
    """Operators in an order in which they can run.

    Args:
        ops: list of `Op`s.
        free: {name: shape} of a file's inputs with dynamic dimensions, -1 there.
    """

    def __init__(self, ops, free=()):
        self.ops = ops
        self.free = dict(free)
        self.producer = {id(value): op for op in ops for value in op.outputs}
        self.consumers = {}
        for op in ops:
            for value in op.inputs:
                self.consumers.setdefault(id(value), []).append(op)

    def uses(self, value):
        """How often a value is consumed, counting it as an output of the model."""
        return len(self.consumers.get(id(value), ())) + value.output

    def only_consumer(self, value):
        """The one operator that consumes a value; None if there are more, or it is an output."""
        return self.consumers[id(value)][0] if self.uses(value) == 1 and not value.output else None


def same_padding(kernel, dilation):
    """What `same` padding is at stride 1: ((top, bottom), (left, right))."""
    totals = [(size - 1) * rate for size, rate in zip(kernel, dilation)]
    return tuple((total // 2, total - total // 2) for total in totals)
