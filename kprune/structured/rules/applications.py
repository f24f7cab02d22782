"""Layers that `keras.applications` defines for itself."""

from kprune._keras.layers import layer_scale
from kprune.structured.rules.registry import register_channel_rule


@register_channel_rule(layer_scale())
def _layer_scale(call):
    channels = call.channels()
    if channels is not None:
        call.size("projection_dim", channels)
    call.use(call.layer.gamma, along={0: channels})
    return call.output(-1, channels)
