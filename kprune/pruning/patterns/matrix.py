"""A weight as matrices of input channels by output channels."""

from keras import ops

from kprune.graphs.weights import INPUT_OUTPUT


def edge_sizes(length, side):
    """Sizes of the blocks that cover `length`: all `side` but perhaps the last."""
    return [min(side, length - start) for start in range(0, length, side)]


def to_matrix(tensor, axes):
    """A tensor of a weight's shape in the layout (..., input channels, output channels)."""
    return tensor if axes == INPUT_OUTPUT else ops.moveaxis(tensor, axes, INPUT_OUTPUT)


def from_matrix(tensor, axes):
    """The inverse of `to_matrix`."""
    return tensor if axes == INPUT_OUTPUT else ops.moveaxis(tensor, INPUT_OUTPUT, axes)


def matrix_shape(shape, axes):
    """The shape that `to_matrix` gives."""
    rank = len(shape)
    axes = [axis % rank for axis in axes]
    return (*(n for i, n in enumerate(shape) if i not in axes), *(shape[i] for i in axes))


def check_rank(pattern, shape, name):
    """Raise `ValueError` unless a weight has input and output channels."""
    if len(shape) < 2:
        raise ValueError(
            f"{pattern} needs a weight with input and output channels (rank 2 or more). "
            f"Received: {name} of shape {tuple(shape)}"
        )
