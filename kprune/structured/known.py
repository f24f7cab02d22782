"""Which operations channels are followed through or into, and why not the others."""

import keras

from kprune._keras.graph import operation_class
from kprune.graphs.walk import graph_of
from kprune.structured.opening import is_custom
from kprune.structured.rules import rule_for


def hindrance(layer):
    """Why a layer of a known kind is not to be cut, or None."""
    if getattr(layer, "quantization_mode", None):
        return f"it is quantized ({layer.quantization_mode})"
    if getattr(layer, "lora_enabled", False):
        return "it carries LoRA weights"
    return None


def opens(operation):
    """Whether the call of an operation may be looked into."""
    return (
        isinstance(operation, keras.Layer)
        and is_custom(operation)
        and rule_for(operation) is None
        and graph_of(operation) is None
        and not isinstance(operation, keras.layers.Lambda)
        and hindrance(operation) is None
    )


def unknown(operation):
    """Why an operation without a rule is not tried out; None if it is."""
    kind = type(operation)
    if isinstance(operation, keras.layers.TimeDistributed):
        return unknown(operation.layer)
    if isinstance(operation, keras.layers.Lambda):
        return "a Lambda layer may do anything"
    if isinstance(operation, keras.Function):
        return f"{kind.__name__} overrides `call`"
    if isinstance(operation, operation_class("WhileLoop")):
        return "how often it runs may depend on the channels"
    if is_custom(operation) and getattr(operation, "weights", None):
        return "a custom layer without a rule (see kprune.structured.register_channel_rule)"
    if isinstance(operation, keras.Layer) and operation.weights:
        return "has weights, and no rule"
    return None
