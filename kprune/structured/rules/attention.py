"""Attention."""

import math

import keras
import numpy as np

from kprune._keras.layers import attention_axes, attention_gate, grouped_attention_parts
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


@register_channel_rule(keras.layers.GroupQueryAttention)
def _grouped_query_attention(call):
    """Whole groups of heads go, or the same heads of each group, whichever there are more of."""
    layer, parts = call.layer, grouped_attention_parts(call.layer)
    query, value = call.argument("query", 0), call.argument("value", 1)
    key = call.argument("key", 2) or value
    call.freeze_inputs("is not a query, key or value", besides=(query, key, value))
    out, reason = call.channels_of(query), "queries, keys and values are of one size"
    for tensor in (value, key):
        if out is None:
            call.freeze(call.channels_of(tensor), reason)
        elif tensor is not query:
            call.tie(out, tensor, reason)
    groups, each = layer.num_key_value_heads, layer.num_query_heads // layer.num_key_value_heads
    if groups >= each:
        shared = call.new(groups, "num_key_value_heads", counted=False)
        heads = np.repeat(shared, each)
    else:
        shared = None
        heads = np.tile(call.new(each, counted=False), groups)
    call.size("num_query_heads", heads)
    steps, others = (_positions(tensor) for tensor in (query, key))
    for name, tensor, made, positions in (
        ("query", query, heads, steps),
        ("gate", query, heads, steps),
        ("key", key, shared, others),
        ("value", value, shared, others),
    ):
        if (dense := parts[name]) is not None:
            taken = {0: call.channels_of(tensor)}
            call.use(dense.kernel, {1: made}, taken, applications=positions)
            call.use(dense.bias, along={0: made})
    # As many come out as queries have.
    call.use(parts["output"].kernel, {2: out}, {0: heads}, applications=steps)
    call.use(parts["output"].bias, along={0: out})
    if len(call.output_shapes) > 1:
        call.freeze(heads, "its scores, which are returned, have an axis of heads")
    call.product({"heads": heads}, 2 * layer.head_dim * steps * key.shape[1])
    return call.outputs(-1, [out, *[None] * (len(call.output_shapes) - 1)])


def _positions(tensor):
    return math.prod(tensor.shape[1:-1])
