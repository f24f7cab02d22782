"""Rewrites for sparse kernels: the same function in a form that they work with.

Each is exact up to the order of sums, and is made on a copy for the file; `export_tflite`
compares the file with the model as it was.
"""

import dataclasses
import functools
import math

import keras
import numpy as np

from kprune.graphs.layer_copy import CannotCopy
from kprune.graphs.rebuild import Rebuild
from kprune.graphs.walk import graph_of
from kprune.targets import xnnpack
from kprune.targets.from_keras import read
from kprune.targets.graph import SAME
from kprune.targets.target import get_target

_LARGEST = 5  # the largest depthwise convolution with a channels-first kernel


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A layer that was written in another form.

    Attributes:
        layer: its name.
        what: what became of it.
    """

    layer: str
    what: str

    def __str__(self):
        return f"{self.layer}: {self.what}"


class _Called(Rebuild):
    def __init__(self, model, calls):
        super().__init__(model)
        self._calls = calls

    def place(self, node, args, kwargs):
        call = self._calls.get(node.operation.name)
        if call is None or graph_of(node.operation) is not None:
            return super().place(node, args, kwargs)
        return functools.partial(call, node.operation), args, {}


def call_otherwise(model, calls):
    """Return a copy of a model in which some layers are called in another way.

    Args:
        model: a built functional or Sequential model. It stays as it is.
        calls: {layer name: function (the model's layer, inputs) -> output}, also of layers in
            nested models.

    Raises:
        CannotCopy: a layer cannot be made again from its configuration.
    """
    return _Called(model, calls).run()


def rewrite(model, target=None, sparsity=None, input_shape=None):
    """Rewrite what keeps a pruned model from XNNPACK's sparse kernels, or breaks on them.

    Args:
        model: a built `keras.Model`.
        target: what it is for, a name or `Target`; None for any.
        sparsity, input_shape: as in `from_keras.read`.

    Returns:
        (model, list of `Rewrite`s): the model itself where nothing is to be gained, as for
        subclassed models, or where layers cannot be copied; else a new one.
    """
    if graph_of(model) is None or (target is not None and not get_target(target).clusters):
        return model, []
    calls, done, how = {}, [], {"sparsity": sparsity, "input_shape": input_shape}
    found = xnnpack.clusters(read(model, **how))
    if not any(cluster.enough for cluster in found):
        return model, []
    try:
        for step in (_depthwise, _vectors, _keep_out):
            more = step(model, calls, done, how)
            calls, done = more or (calls, done)
        return (call_otherwise(model, calls), done) if done else (model, [])
    except CannotCopy:
        return model, []


def _plan(model, calls, how):
    """The `Graph` and the clusters of the model with these calls replaced; `how` to `read` it."""
    graph = read(call_otherwise(model, calls) if calls else model, **how)
    return graph, xnnpack.clusters(graph)


def _gain(found):
    """How many weights run in sparse kernels."""
    return sum(cluster.weights for cluster in found if cluster.changed)


def _depthwise(model, calls, done, how):
    """Stride-2 depthwise convolutions with padding that is not symmetric, if that helps."""
    graph = read(model, input_shape=how["input_shape"])
    more, notes = dict(calls), list(done)
    for op in graph.ops:
        if op.strides != (2, 2) or op.type != "DepthwiseConv2D" or not called_once(graph, op):
            continue
        form = symmetric_form(op, padding_before(graph, op))
        if form is None or not skip_padding(graph, op, more):
            continue
        size, offset = form
        more[op.name] = _call_depthwise(size, offset)
        same = "" if size == op.kernel[0] else f" as {size}x{size}"
        notes.append(
            Rewrite(op.name, f"stride-2 depthwise{same} with padding {size // 2} on each side")
        )
    if len(notes) == len(done):
        return None
    return (
        (more, notes)
        if _gain(_plan(model, more, how)[1]) > _gain(_plan(model, calls, how)[1])
        else None
    )


def called_once(graph, op):
    """Whether an operator's layer is called once, so that its name says which call it is."""
    return sum(other.name == op.name and other.kind == op.kind for other in graph.ops) == 1


def skip_padding(graph, op, calls):
    """Skip the padding layer before an operator, if any; False where others need it."""
    before = graph.producer.get(id(op.inputs[0]))
    if before is None or before.kind != "pad":
        return True
    if graph.only_consumer(op.inputs[0]) is not op or not called_once(graph, before):
        return False
    calls[before.name] = lambda layer, x: x
    return True


def padding_before(graph, op):
    """Find what a convolution does at the borders, together with a padding layer before it.

    Returns:
        (padding, (height, width) of the image before it), or None where sizes are not known.
    """
    before = graph.producer.get(id(op.inputs[0]))
    padded = before is not None and before.kind == "pad"
    image = (before if padded else op).inputs[0].shape[1:3]
    if None in image or (padded and op.padding == SAME):
        return None
    if op.padding == SAME:
        return tuple(_same(*each) for each in zip(image, op.kernel, op.strides)), image
    if padded:
        pairs = zip(op.padding, before.padding)
        return tuple((a + c, b + d) for (a, b), (c, d) in pairs), image
    return op.padding, image


def _same(size, kernel, stride):
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def symmetric_form(op, border):
    """Find the same depthwise convolution with symmetric padding, 3x3 or 5x5.

    Args:
        op: an `Op`.
        border: from `padding_before`.

    Returns:
        (kernel size, where the kernel begins in it), or None if there is none.
    """
    size = op.kernel[0]
    if border is None or op.kernel != (size, size) or op.dilation != (1, 1) or op.multiplier != 1:
        return None
    (rows, columns), image = border
    if rows[0] != columns[0]:
        return None
    for larger in range(3, _LARGEST + 1, 2):
        offset = larger // 2 - rows[0]
        outs = tuple((n + 2 * (larger // 2) - larger) // op.strides[0] + 1 for n in image)
        if 0 <= offset <= larger - size and outs == tuple(op.outputs[0].shape[1:3]):
            return larger, offset
    return None


def _call_depthwise(size, offset):
    def call(layer, x):
        config = layer.get_config()
        config |= {"kernel_size": (size, size), "padding": "valid"}
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{layer.name}_pad")(x)
        new = keras.layers.DepthwiseConv2D.from_config(config)
        y = new(x)
        old = _numpy(layer.kernel)
        kernel = np.zeros((size, size, *old.shape[2:]), old.dtype)
        kernel[offset : offset + old.shape[0], offset : offset + old.shape[1]] = old
        new.set_weights([kernel, *map(_numpy, layer.weights[1:])])
        return y

    return call


def _numpy(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _vectors(model, calls, done, how):
    """1x1 convolutions after a spatial mean that keeps its dimensions, where they would fail."""
    graph, found = _plan(model, calls, how)
    more, notes = dict(calls), list(done)
    for cluster in found:
        for op, effect, *_ in cluster.broken if cluster.enough else ():
            mean = graph.producer[id(op.inputs[0])]
            known = op.type in ("Conv2D", "Dense") and mean.type == "GlobalAveragePooling2D"
            alone = graph.only_consumer(op.inputs[0]) is op and called_once(graph, op)
            if (
                effect == xnnpack.FAILS
                and op.pointwise
                and known
                and alone
                and called_once(graph, mean)
            ):
                more[op.name], more[mean.name] = _call_on_vectors, _call_mean
                notes.append(
                    Rewrite(op.name, "1x1 convolution on one pixel as a Dense layer on vectors")
                )
    return (more, notes) if len(notes) > len(done) else None


def _call_mean(layer, x):
    return keras.layers.GlobalAveragePooling2D(name=layer.name, dtype=layer.dtype_policy)(x)


def _call_on_vectors(layer, x):
    kernel = _numpy(layer.kernel)
    new = keras.layers.Dense(
        kernel.shape[-1],
        activation=layer.activation,
        use_bias=layer.use_bias,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
    y = new(x)
    new.set_weights([kernel.reshape(kernel.shape[-2:]), *map(_numpy, layer.weights[1:])])
    return keras.layers.Reshape((1, 1, kernel.shape[-1]), name=f"{layer.name}_image")(y)


def _keep_out(model, calls, done, how):
    """Where the sparse path would compute wrong outputs: a first convolution it does not take."""
    graph, found = _plan(model, calls, how)
    broken = [cluster for cluster in found if cluster.changed and cluster.broken]
    more, notes = dict(calls), list(done)
    for cluster in broken:
        for op in cluster.ops:
            if op.kernel == (3, 3) and op.type == "Conv2D" and called_once(graph, op):
                culprit, effect, why, _ = cluster.broken[0]
                more[op.name] = _call_wider
                notes.append(
                    Rewrite(
                        op.name,
                        "3x3 convolution as 4x4 with a row and a column of zeros, to keep the "
                        f"file off XNNPACK's sparse path, where it {effect}: '{culprit.name}' "
                        f"{why}",
                    )
                )
    return (more, notes) if len(notes) > len(done) else None


def _call_wider(layer, x):
    config = layer.get_config() | {"kernel_size": (4, 4)}
    new = keras.layers.Conv2D.from_config(config)
    y = new(keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{layer.name}_more")(x))
    old = _numpy(layer.kernel)
    kernel = np.zeros((4, 4, *old.shape[2:]), old.dtype)
    kernel[:3, :3] = old
    new.set_weights([kernel, *map(_numpy, layer.weights[1:])])
    return y
