"""Recurrent layers, and layers around another layer."""

import math

import keras
import numpy as np

from kprune.structured.reasons import Unsafe
from kprune.structured.rules.registry import register_channel_rule, rule_for

_GATES = {keras.layers.LSTM: 4, keras.layers.GRU: 3, keras.layers.SimpleRNN: 1}


@register_channel_rule(*_GATES)
def _recurrent(call):
    layer, cell = call.layer, call.layer.cell
    # Of (batch, steps, features), or inside a TimeDistributed more axes before the steps.
    gates, steps = _GATES[type(layer)], math.prod(call.inputs[0].shape[1:-1])
    channels = call.channels()
    units = call.new(layer.units, "units")
    gated = np.tile(units, gates)
    call.use(cell.kernel, {1: gated}, {0: channels}, applications=steps)
    call.use(cell.recurrent_kernel, {1: gated}, {0: units}, applications=steps)
    call.use(cell.bias, {-1: gated})
    for state in call.arguments("initial_state", 1):
        call.tie(units, state, "a state that is given stays as it is")
    call.activation(units, layer.activation)
    call.activation(units, getattr(layer, "recurrent_activation", None))
    return call.outputs(-1, [units] * len(call.output_shapes))


@register_channel_rule(keras.layers.Bidirectional)
def _bidirectional(call):
    layer = call.layer
    forward, backward = (
        call.inner(part, (name, "config")) for name, part in
        (("layer", layer.forward_layer), ("backward_layer", layer.backward_layer))
    )  # fmt: skip
    parts = layer.forward_layer, layer.backward_layer
    if any(rule_for(part) is not _recurrent for part in parts):
        raise Unsafe("a rule is only there for LSTM, GRU and SimpleRNN")
    if parts[0].units != parts[1].units:
        raise Unsafe("its directions have different numbers of units")
    if call.arguments("initial_state", 1):
        raise Unsafe("its states are given")
    ahead, back = _recurrent(forward)[0].labels, _recurrent(backward)[0].labels
    call.labels.union(ahead, back)  # Most merges want both directions of one size.
    both = np.concatenate([ahead, back])
    found = [both if shape[-1] == len(both) else ahead for shape in call.output_shapes]
    return call.outputs(-1, found)


@register_channel_rule(keras.layers.TimeDistributed)
def _time_distributed(call):
    inner = call.layer.layer
    return rule_for(inner)(call.inner(inner, ("layer", "config")))
