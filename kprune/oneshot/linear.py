"""Kernels as matrices, and what layers multiply them with as rows.

Whatever a layer's product is, it is `rows @ matrix` for matrices [groups, d, outputs] of its kernel
and rows [groups, n, d] of its input: a convolution's rows are windows of the image, those of a
recurrent kernel are states. So one second moment, rows.T @ rows, says for all of them what a change
of the kernel does to the output.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np

from kprune.graphs.weights import einsum_letters

_CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
_CONVS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """How one weight of a layer is multiplied.

    Attributes:
        layer: the `keras.Layer` whose `call` gets the input: the one that has the weight, or the
            recurrent or `TimeDistributed` layer around it.
        rows: function from the call's input, a float32 array, the layer's own `call` and the most
            rows that are wanted to an array [groups, n, d].
        matrix: function from an array of the weight's shape to one [groups, d, outputs].
        weight: the inverse of `matrix`.
        bias: the variable that is added to the outputs, or None.
    """

    layer: keras.Layer
    rows: Callable
    matrix: Callable
    weight: Callable
    bias: keras.Variable | None = None


def linear_of(weight):
    """Return the `Linear` of a `Weight`, or None for what is no product that is known."""
    owner, name = weight.layer, weight.variable.name
    around = weight.parents[-2] if len(weight.parents) > 1 else None
    if isinstance(owner, _CELLS):
        known = name in ("kernel", "recurrent_kernel") and isinstance(around, keras.layers.RNN)
        return _recurrent(around, weight.variable) if known else None
    found = _of_layer(owner, name, tuple(weight.variable.shape))
    if found is None or not isinstance(around, keras.layers.TimeDistributed):
        return found

    def rows(x, call, most):
        return found.rows(x.reshape(-1, *x.shape[2:]), call, most)

    return dataclasses.replace(found, layer=around, rows=rows)


def _of_layer(layer, name, shape):
    kind = type(layer)
    if name == "kernel" and kind is keras.layers.Dense:
        return _plain(layer, lambda x, call, most: _some(x.reshape(-1, x.shape[-1]), most)[None])
    if name == "kernel" and kind is keras.layers.EinsumDense:
        return _einsum(layer, shape)
    if name == "kernel" and kind in _CONVS:
        return _conv(layer, shape)
    if name == "kernel" and kind in _TRANSPOSED:
        return _conv_transpose(layer, shape)
    if name == "kernel" and kind in _DEPTHWISE:
        return _depthwise(layer, shape, layer.bias)
    if name == "depthwise_kernel" and kind in _SEPARABLE:
        return _depthwise(layer, shape, None)
    if name == "pointwise_kernel" and kind in _SEPARABLE:
        return _pointwise(layer, shape)
    return None


def _plain(layer, rows):
    return Linear(
        layer, rows, lambda w: w.reshape(1, -1, w.shape[-1]),
        lambda m: m.reshape(layer.kernel.shape), layer.bias,
    )  # fmt: skip


def _some(rows, most):
    """No more than so many of the rows, at random."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def _axes_view(layer, order, sizes, rows, bias):
    """A `Linear` of a kernel whose axes in some order are groups, inputs and outputs."""
    inverse = np.argsort([axis for part in order for axis in part])
    moved = [axis for part in order for axis in part]

    def matrix(weight):
        counts = [math.prod(weight.shape[axis] for axis in part) for part in order]
        return weight.transpose(moved).reshape(counts)

    def weight(matrix):
        return matrix.reshape([sizes[axis] for axis in moved]).transpose(inverse)

    return Linear(layer, rows, matrix, weight, bias)


def _einsum(layer, shape):
    written = layer.equation.replace(" ", "").split(",")[0]
    source, letters, target = einsum_letters(
        layer.equation, len(written.replace("...", "")) + written.count("...")
    )
    shared = [a for a in letters if a in source and a in target]
    summed = [a for a in letters if a in source and a not in target]
    made = [a for a in letters if a not in source]
    if any(a not in target for a in made):
        return None

    def rows(x, call, most):
        source, _, target = einsum_letters(layer.equation, x.ndim)
        alone = [a for a in source if a not in letters and a not in target]
        x = x.sum(tuple(source.index(a) for a in alone))
        source = [a for a in source if a not in alone]
        others = [a for a in source if a not in letters]
        order = [source.index(a) for a in (*shared, *others, *summed)]
        sizes = [[x.shape[source.index(a)] for a in part] for part in (shared, others, summed)]
        x = x.transpose(order).reshape([math.prod(part) for part in sizes])
        return _some(x.swapaxes(0, 1), most).swapaxes(0, 1)

    order = [[letters.index(a) for a in part] for part in (shared, summed, made)]
    bias, outputs = layer.bias, [a for a in target if a in letters]
    if bias is not None:
        # It goes one to one with the outputs only where it has all of them, in their order.
        size = math.prod(shape[letters.index(a)] for a in outputs)
        if outputs != shared + made or math.prod(bias.shape) != size:
            bias = None
    return _axes_view(layer, order, shape, rows, bias)


def _conv(layer, shape):
    groups = layer.groups

    def rows(x, call, most):
        windows = _windows(_channels_last(layer, x), layer, most)
        n, c = len(windows), windows.shape[-1]
        windows = windows.reshape(n, -1, groups, c // groups)
        return windows.transpose(2, 0, 1, 3).reshape(groups, n, -1)

    def matrix(weight):
        weight = weight.reshape(-1, groups, shape[-1] // groups)
        return weight.transpose(1, 0, 2)

    def weight(matrix):
        return matrix.transpose(1, 0, 2).reshape(shape)

    return Linear(layer, rows, matrix, weight, layer.bias)


def _depthwise(layer, shape, bias):
    *sides, channels, _ = shape
    rank = len(sides)

    def rows(x, call, most):
        windows = _windows(_channels_last(layer, x), layer, most)
        return windows.reshape(len(windows), -1, channels).transpose(2, 0, 1)

    order = [[rank], list(range(rank)), [rank + 1]]
    return _axes_view(layer, order, shape, rows, bias)


def _pointwise(layer, shape):
    def rows(x, call, most):
        windows = _windows(_channels_last(layer, x), layer, most)
        kernel = np.asarray(keras.ops.convert_to_numpy(layer.depthwise_kernel), "float32")
        windows = windows.reshape(len(windows), -1, windows.shape[-1])
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        return np.einsum("nkc,kcm->ncm", windows, kernel).reshape(1, len(windows), -1)

    return Linear(
        layer, rows, lambda w: w.reshape(1, -1, shape[-1]), lambda m: m.reshape(shape), layer.bias
    )


def _conv_transpose(layer, shape):
    """A convolution of the input with zeros in between, by the kernel turned round."""
    *sides, filters, channels = shape
    rank = len(sides)
    turned = tuple(slice(None, None, -1) for _ in sides)

    def rows(x, call, most):
        x = _channels_last(layer, x)
        strides = layer.strides
        size = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], strides)]
        dilated = np.zeros((len(x), *size, x.shape[-1]), x.dtype)
        dilated[(slice(None), *(slice(None, None, s) for s in strides))] = x
        reach = [(k - 1) * d for k, d in zip(sides, layer.dilation_rate)]
        padded = np.pad(dilated, [(0, 0), *((r, r) for r in reach), (0, 0)])
        windows = _cut(padded, sides, [1] * rank, layer.dilation_rate, most)
        return windows.reshape(1, len(windows), -1)

    def matrix(weight):
        return np.moveaxis(weight[turned], -1, -2).reshape(1, -1, filters)

    def weight(matrix):
        return np.moveaxis(matrix.reshape(*sides, channels, filters), -1, -2)[turned]

    if getattr(layer, "groups", 1) != 1:
        return None
    return Linear(layer, rows, matrix, weight, layer.bias)


def _recurrent(layer, variable):
    """The kernel of a recurrent layer, on its input or on the states before each step."""

    def of_inputs(x, call, most):
        return _some(x.reshape(-1, x.shape[-1]), most)[None]

    def of_states(x, call, most):
        before = layer.return_sequences, layer.return_state
        layer.return_sequences, layer.return_state = True, False
        try:
            states = call(keras.ops.convert_to_tensor(x))
        finally:
            layer.return_sequences, layer.return_state = before
        states = np.asarray(keras.ops.convert_to_numpy(states), "float32")[:, :-1]
        return _some(states.reshape(-1, states.shape[-1]), most)[None]

    shape = tuple(variable.shape)
    rows = of_states if variable.name == "recurrent_kernel" else of_inputs
    return Linear(layer, rows, lambda w: w.reshape(1, *shape), lambda m: m.reshape(shape), None)


def _channels_last(layer, x):
    return np.moveaxis(x, 1, -1) if layer.data_format == "channels_first" else x


def _windows(x, layer, most):
    """What a convolution multiplies, [n, *kernel_size, channels]; at random, if there are more."""
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate)]
    strides = layer.strides
    if layer.padding == "causal":
        pads = [(r - 1, 0) for r in reach]
    elif layer.padding == "same":
        pads = []
        for n, r, s in zip(x.shape[1:-1], reach, strides):
            total = max((-(-n // s) - 1) * s + r - n, 0)
            pads.append((total // 2, total - total // 2))
    else:
        pads = [(0, 0)] * len(reach)
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    return _cut(padded, layer.kernel_size, strides, layer.dilation_rate, most)


def _cut(x, sizes, strides, dilation, most):
    """Windows of an array [batch, *space, channels]."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(sizes, dilation))
    axes = tuple(range(1, 1 + len(reach)))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = [slice(None, None, s) for s in strides]
    holes = [slice(None, None, d) for d in dilation]
    view = view[(slice(None), *steps, slice(None), *holes)]
    places = view.shape[: 1 + len(reach)]
    n = math.prod(places)
    chosen = np.arange(n)
    if n > most:
        chosen = np.sort(np.random.default_rng(0).choice(n, most, replace=False))
    return np.moveaxis(view[np.unravel_index(chosen, places)], 1, -1)
