"""A layer that stands for the one it wraps, some of whose weights read as other values in a call.

`keras.layers.Wrapper` holds a layer; that it is called, built, named and saved as that layer would
be takes what only Keras' own layers use: `_convert_input_args`,
`_allow_non_tensor_positional_args`, `_input_shape_arg`, `_call_has_training_arg`, `_maybe_build`
and `_open_name_scope` of `keras.Layer`.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune._keras.scope import ReplacedValues
from kprune._system.type_aliases import Tensor


class ReplacingWrapper(keras.layers.Wrapper):
    """Wraps a layer; subclasses say which values its weights have in a call.

    Args:
        layer: the `keras.Layer`, built or not.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        # Before Layer.__init__, which reads from it what a call takes.
        self.call = _with_signature(self._call, layer)
        # Nothing is cast here: the wrapped layer does it, and state is in full precision.
        super().__init__(layer, **{**kwargs, "dtype": layer.variable_dtype, "autocast": False})
        self.supports_masking = layer.supports_masking
        self._convert_input_args = layer._convert_input_args
        self._allow_non_tensor_positional_args = layer._allow_non_tensor_positional_args
        if hasattr(layer, "_input_shape_arg"):
            self._input_shape_arg = layer._input_shape_arg

    def replaced_values(self) -> tuple[list[keras.Variable], list[Tensor]]:
        """Return the weights, and the tensors that they read as: two lists."""
        raise NotImplementedError

    def _call(self, *args, **kwargs):
        return self.call_with(self.replaced_values(), args, kwargs)

    def call_with(self, replaced: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the wrapped layer; `replaced` is as `replaced_values` returns it."""
        with ReplacedValues(*replaced) as scope:
            outputs = self.layer(*args, **self.accepted(kwargs))
        for loss in scope.own_losses:
            self.add_loss(loss)
        return outputs

    def accepted(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return `kwargs` without `training` where the layer does not take it."""
        if self.layer._call_has_training_arg or "training" not in kwargs:
            return kwargs
        return {name: value for name, value in kwargs.items() if name != "training"}

    def _maybe_build(self, call_spec):
        if not self.built:
            # From what it is called with, as if it were called itself.
            inner_spec = copy.copy(call_spec)
            inner_spec.arguments_dict = self.accepted(call_spec.arguments_dict)
            self.layer._maybe_build(inner_spec)
            self.build()

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the wrapped layer's."""
        return self.layer.get_build_config()

    def build_from_config(self, config: dict[str, Any] | None) -> None:
        """Build the wrapped layer from its own configuration, and what the wrapper adds."""
        if not self.layer.built:
            self.layer.build_from_config(config)
        self.build()

    def _open_name_scope(self):
        # So that paths of variables are the same with and without the wrapper.
        return self.layer._open_name_scope()

    def get_weights(self) -> list[np.ndarray]:
        """Return the values of the wrapped layer's weights, a list of NumPy arrays."""
        return self.layer.get_weights()

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set the wrapped layer's weights from a list of NumPy arrays."""
        self.layer.set_weights(weights)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **self.accepted(kwargs))


def _with_signature(call, layer):
    """`call`, with the signature of the layer's own and `training` besides.

    Keras reads from it which inputs are masks, which build the layer, and so on.
    """

    def with_signature(*args, **kwargs):
        return call(*args, **kwargs)

    signature = inspect.signature(layer.call)
    parameters = list(signature.parameters.values())
    if "training" not in signature.parameters:
        training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        catches_all = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - 1 if catches_all else len(parameters), training)
    with_signature.__signature__ = signature.replace(parameters=parameters)
    return with_signature
