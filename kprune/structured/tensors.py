"""What the channel graph knows of one tensor between two operations."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """The channels of a tensor.

    Attributes:
        shape: tuple; only the batch may be None.
        dtype: str.
        axis: int below 0, the axis whose positions are channels; None when no channel
            of it can be removed.
        labels: int array, one label for each position of the axis; None with `axis`.
        batch: int >= 0, the axis of the batch; the first but for what attention does to queries,
            keys and values that are made at once.
    """

    shape: tuple
    dtype: str
    axis: int | None = None
    labels: np.ndarray | None = None
    batch: int = 0

    def with_channels(self, axis, labels):
        """Return the tensor with labels along an axis."""
        return dataclasses.replace(self, axis=axis, labels=labels)

    def batch_first(self):
        """Return the tensor as it is with its batch as the first axis."""
        shape = (None, *(n for i, n in enumerate(self.shape) if i != self.batch))
        axis = self.axis
        if axis is not None and axis + len(shape) < self.batch:
            axis += 1
        return Tensor(shape, self.dtype, axis, self.labels)

    def own_axis(self, axis):
        """Return the axis, below 0, that is this one of `batch_first`."""
        return axis if axis is None or axis + len(self.shape) > self.batch else axis - 1


def drop(values, axis, kept):
    """Return the array without the positions of an axis where `kept` is False."""
    return values if axis is None else np.compress(kept, values, axis=axis)


def zeroed(values, axis, kept):
    """Return the array with zeros in the positions of an axis where `kept` is False."""
    if axis is None:
        return values
    shape = [1] * values.ndim
    shape[axis] = -1
    return values * kept.reshape(shape).astype(values.dtype)
