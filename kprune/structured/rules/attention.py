"""Attention."""

import math

import keras

from kprune._keras.layers import attention_axes, attention_gate
from kprune.structured.rules.registry import register_channel_rule


@register_channel_rule(keras.layers.MultiHeadAttention)
def _attention(call):
    layer = call.layer
    query, value = call.argument("query", 0), call.argument("value", 1)
    key = call.argument("key", 2) or value
    call.freeze_inputs("is not a query, key or value", besides=(query, key, value))
    heads = call.new(layer.num_heads, "num_heads", counted=False)
    scored = call.new(layer.key_dim, "key_dim")
    valued = call.new(layer.value_dim, "value_dim")
    if layer.key_dim == layer.value_dim:  # Keras on JAX wants them to be the same.
        call.labels.union(scored, valued)
    steps, others = (_positions(tensor) for tensor in (query, key))
    projections = [
        (layer.query_dense, query, scored, steps),
        (layer.key_dense, key, scored, others),
        (layer.value_dense, value, valued, others),
    ]
    gate = attention_gate(layer)
    if gate is not None:
        projections.append((gate, query, valued, steps))
    for dense, tensor, size, positions in projections:
        made, taken = {1: heads, 2: size}, {0: call.channels_of(tensor)}
        call.use(dense.kernel, made, taken, applications=positions)
        call.use(dense.bias, along={0: heads, 1: size})
    output = layer.output_dense
    if len(output.kernel.shape) == 3:
        out = call.new(output.kernel.shape[-1])
        call.size("output_shape", out, lambda count: (count,))
    else:
        out = None
    call.use(output.kernel, {2: out}, {0: heads, 1: valued}, applications=steps)
    call.use(output.bias, along={0: out})
    pairs = steps * math.prod(key.shape[axis] for axis in attention_axes(layer))
    if len(call.output_shapes) > 1:
        call.freeze(heads, "its scores, which are returned, have an axis of heads")
    call.product({"heads": heads, "scores": scored}, pairs)
    call.product({"heads": heads, "values": valued}, pairs)

    # Scores are divided by the square root of the size of a head.
    def keep_scores(new, share):
        dense = new.query_dense
        for variable in (dense.kernel, dense.bias):
            if variable is not None:
                variable.assign(variable * math.sqrt(share))

    call.after(scored, keep_scores)
    return call.outputs(-1, [out, *[None] * (len(call.output_shapes) - 1)])


def _positions(tensor):
    return math.prod(tensor.shape[1:-1])
