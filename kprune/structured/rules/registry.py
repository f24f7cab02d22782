"""One rule for each kind of layer with weights: which axis of which variable is channels.

A rule is a function of a `Call`. It reads the channels of the inputs, names those that the
layer makes, says which axes of its variables they are and which entries of its configuration
count them, and returns the channels of the output.
"""

from collections.abc import Callable
from typing import Any

import keras

_RULES: dict[type, Callable[..., Any]] = {}


def register_channel_rule(*kinds: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say how channels go through a layer class, so that models with such layers can be cut.

    Example:

    ```python
    class LayerScale(keras.layers.Layer):
        def build(self, input_shape):
            self.gamma = self.add_weight(shape=(input_shape[-1],), name="gamma")

        def call(self, inputs):
            return inputs * self.gamma


    @kprune.structured.register_channel_rule(LayerScale)
    def layer_scale(call):
        channels = call.channels()  # those of the first input's last axis
        call.use(call.layer.gamma, along={0: channels})
        return call.output(-1, channels)
    ```

    Args:
        *kinds: layer classes; the rule is for exactly these, not for their subclasses.

    Returns:
        A decorator for a function from a `kprune.structured.Call` to what the call returns:
        `call.output(axis, channels)`, or `call.output()` for outputs without channels.
    """

    def register(rule):
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, keras.Layer)):
                raise TypeError(f"Rules are for layer classes. Received: {kind!r}")
            _RULES[kind] = rule
        return rule

    return register


def rule_for(layer):
    """Return the rule of a layer's class, or None."""
    if isinstance(layer, keras.layers.TimeDistributed) and rule_for(layer.layer) is None:
        return None
    return _RULES.get(type(layer))
