"""What layers are called on, summed up: second moments, means and variances."""

import math

import keras
import numpy as np

from kprune.oneshot.stages import inputs_of

_LARGEST = 4096  # Inputs whose second moments are kept with one another.
_ROWS = 8  # So many rows for each input are enough,
_FEWEST_ROWS = 16384  # and so many are always taken, if there are as many.


class Moment:
    """The second moment of a weight's inputs, in blocks of which each is small enough."""

    def __init__(self, has_bias):
        self.has_bias, self.total = has_bias, None

    def add(self, rows):
        groups, n, d = rows.shape
        self._d, self._groups = d, groups
        self._parts = -(-d // _LARGEST)
        if self._parts > 1:
            self.has_bias = False
            rows = self.blocks(rows.swapaxes(1, 2)).swapaxes(1, 2)
        elif self.has_bias:
            rows = np.concatenate([rows, np.ones((groups, n, 1), rows.dtype)], axis=2)
        moment = rows.swapaxes(1, 2) @ rows
        self.total = moment if self.total is None else self.total + moment

    def blocks(self, matrix, fill=0):
        """Matrices [groups, d, outputs] as ones of so many more groups, each a part of the d."""
        if self._parts == 1:
            return matrix
        size = -(-self._d // self._parts)
        missing = self._parts * size - self._d
        matrix = np.pad(matrix, [(0, 0), (0, missing), (0, 0)], constant_values=fill)
        return matrix.reshape(-1, size, matrix.shape[-1])

    def joined(self, blocks):
        """The inverse of `blocks`."""
        if self._parts == 1:
            return blocks
        return blocks.reshape(self._groups, -1, blocks.shape[-1])[:, : self._d]


def moments_of(found, run, examples):
    """The `Moment`s of the weights of one layer; None for what is not called with numbers."""
    moments = [Moment(linear.bias is not None) for _, linear in found]

    def take(x, call):
        try:
            value = np.asarray(keras.ops.convert_to_numpy(x)).astype("float32")
        except Exception:
            return  # A tensor of a traced loop.
        share = len(value) / examples
        for moment, (weight, linear) in zip(moments, found):
            d = math.prod(weight.variable.shape[:-1])
            most = math.ceil(max(_FEWEST_ROWS, _ROWS * min(d, _LARGEST)) * share)
            moment.add(linear.rows(value, call, most))

    inputs_of(found[0][1].layer, run, take)
    for moment, (_, linear) in zip(moments, found):
        if moment.total is not None and not np.isfinite(moment.total).all():
            raise ValueError(
                f"{linear.layer.name!r} is given NaN or infinite numbers on `data`: check the data."
            )
    return [None if moment.total is None else moment for moment in moments]


def measure_again(layer, run):
    """Give a batch normalization the mean and variance of what it is called on."""
    sums = []

    def take(x, call):
        x = np.asarray(keras.ops.convert_to_numpy(x)).astype("float64")
        axes = tuple(i for i in range(x.ndim) if i != layer.axis % x.ndim)
        sums.append((x.size / x.shape[layer.axis], x.sum(axes), np.square(x).sum(axes)))

    if inputs_of(layer, run, take):
        n, total, squares = (sum(column) for column in zip(*sums))
        mean = total / n
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(squares / n - mean**2, 0))
