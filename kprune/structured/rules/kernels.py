"""Layers with a kernel: dense, convolutions, embeddings."""

import math

import keras
import numpy as np

from kprune.graphs.weights import einsum_letters
from kprune.structured.rules.registry import register_channel_rule


def _elements(shape):
    """Elements of a shape without its batch."""
    return math.prod(shape[1:])


@register_channel_rule(keras.layers.Dense)
def _dense(call):
    layer = call.layer
    channels = call.channels()
    out = call.new(layer.units, "units")
    positions = _elements(call.output_shape) // layer.units
    call.use(layer.kernel, {1: out}, {0: channels}, applications=positions)
    call.use(layer.bias, along={0: out})
    call.activation(out)
    return call.output(-1, out)


@register_channel_rule(keras.layers.EinsumDense)
def _einsum_dense(call):
    layer, tensor = call.layer, call.inputs[0]
    source, kernel, target = einsum_letters(layer.equation, len(tensor.shape))
    sizes = dict(zip(source, tensor.shape)) | dict(zip(kernel, layer.kernel.shape))
    makes, takes, along, out, out_axis = {}, {}, {}, None, None
    if tensor.axis is not None:
        letter = source[tensor.axis]
        if letter in kernel:
            axes = along if letter in target else takes
            axes[kernel.index(letter)] = tensor.labels
        if letter in target:
            out, out_axis = tensor.labels, target.index(letter) - len(target)
    fresh = [letter for letter in target if letter not in source]
    if fresh and out is None:
        heads = call.makes_heads and len(fresh) > 1
        letter = fresh[-2] if heads else max(reversed(fresh), key=sizes.get)
        out_axis = target.index(letter) - len(target)
        out = call.new(sizes[letter])
        makes[kernel.index(letter)] = out
    if out is not None:
        written = layer.equation.replace(" ", "").split("->")[1]
        if target[out_axis] in written:  # `output_shape` leaves out the batch, or the ellipsis.
            first = written.replace("...", "").index(target[out_axis])
            call.size(("output_shape", first - (not written.startswith("..."))), out)
    applications = math.prod(sizes[letter] for letter in source[1:] if letter not in kernel)
    call.use(layer.kernel, makes, takes, along, applications)
    if layer.bias is not None and out is not None:
        axis = out_axis + len(layer.bias.shape)
        if axis >= 0 and layer.bias.shape[axis] == len(out):
            call.use(layer.bias, along={axis: out})
    call.activation(out)
    return call.output(out_axis, out)


def _channel_axis(layer):
    return -1 if layer.data_format == "channels_last" else -1 - layer.rank


@register_channel_rule(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
def _conv(call):
    layer, axis = call.layer, _channel_axis(call.layer)
    channels = call.channels(axis=axis)
    positions = _elements(call.output_shape) // layer.filters
    into = layer.kernel.shape[-2]
    if layer.groups > 1 and into == 1:  # Depthwise: a channel takes its filters along.
        if channels is None:
            return call.output()
        out = np.repeat(channels, layer.filters // layer.groups)
        call.size("groups", channels)
        call.size("filters", out)
        call.use(layer.kernel, along={-1: out}, applications=positions)
    else:
        out = call.new(layer.filters, "filters")
        if layer.groups > 1:
            call.labels.tie_rows(out.reshape(layer.groups, -1))
            if channels is not None:
                channels = call.labels.tie_rows(channels.reshape(layer.groups, -1))
        call.use(layer.kernel, {-1: out}, {-2: channels}, applications=positions)
    call.use(layer.bias, along={0: out})
    call.activation(out)
    return call.output(axis, out)


@register_channel_rule(
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose
)
def _conv_transpose(call):
    layer, axis = call.layer, _channel_axis(call.layer)
    channels = call.channels(axis=axis)
    if getattr(layer, "groups", 1) != 1:
        call.freeze(channels, "grouped transposed convolutions have no rule")
        return call.output()
    out = call.new(layer.filters, "filters")
    positions = _elements(call.inputs[0].shape) // call.inputs[0].shape[axis]
    call.use(layer.kernel, {-2: out}, {-1: channels}, applications=positions)
    call.use(layer.bias, along={0: out})
    call.activation(out)
    return call.output(axis, out)


@register_channel_rule(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
def _depthwise_conv(call):
    layer, axis = call.layer, _channel_axis(call.layer)
    channels = call.channels(axis=axis)
    multiplier = layer.depth_multiplier
    positions = _elements(call.output_shape) // call.output_shape[axis]
    out = None if channels is None else np.repeat(channels, multiplier)
    call.use(layer.kernel, along={-2: channels}, applications=positions)
    call.use(layer.bias, along={0: out})
    call.activation(out)
    return call.output(axis, out)


@register_channel_rule(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def _separable_conv(call):
    layer, axis = call.layer, _channel_axis(call.layer)
    channels = call.channels(axis=axis)
    between = None if channels is None else np.repeat(channels, layer.depth_multiplier)
    out = call.new(layer.filters, "filters")
    positions = _elements(call.output_shape) // layer.filters
    call.use(layer.depthwise_kernel, along={-2: channels}, applications=positions)
    call.use(layer.pointwise_kernel, {-1: out}, {-2: between}, applications=positions)
    call.use(layer.bias, along={0: out})
    call.activation(out)
    return call.output(axis, out)


@register_channel_rule(keras.layers.PReLU)
def _prelu(call):
    tensor, alpha = call.inputs[0], call.layer.alpha
    if tensor.axis is not None and alpha.shape[tensor.axis] == len(tensor.labels):
        call.use(alpha, along={tensor.axis: tensor.labels})
    return call.output(tensor.axis, tensor.labels)


@register_channel_rule(keras.layers.Embedding)
def _embedding(call):
    call.freeze_inputs("they are numbers of rows")
    out = call.new(call.layer.output_dim, "output_dim")
    call.use(call.layer.embeddings, {1: out})
    return call.output(-1, out)


@register_channel_rule(keras.layers.ReversibleEmbedding)
def _reversible_embedding(call):
    layer = call.layer
    if not call.option("reverse", 1):
        return _embedding(call)
    out = call.new(layer.output_dim, "output_dim")
    call.tie(out, call.inputs[0], "projects back what it has as many of as its tokens")
    positions = _elements(call.output_shape) // layer.input_dim
    if layer.tie_weights:
        call.use(layer.embeddings, takes={1: out}, applications=positions)
    else:
        call.use(layer.reverse_embeddings, takes={0: out}, applications=positions)
    return call.output()
