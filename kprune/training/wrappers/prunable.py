"""Which weights of a layer a wrapper prunes."""

import abc

import keras

from kprune._keras.layers import has_own_build, made_trainable, sublayers
from kprune.graphs.weights import (
    FROZEN,
    is_built,
    is_builtin,
    names_its_weights,
    weights_of,
)


class PrunableLayer(abc.ABC):
    """Says which weights of a layer of your own `PruneLowMagnitude` prunes.

    Without it those weights are pruned that are float, trainable, of rank 2 or more, and
    not named as a bias or a scale is. A layer may also just have the method.

    Example:

    ```python
    class LowRank(keras.layers.Layer, kprune.PrunableLayer):
        def build(self, input_shape):
            self.down = self.add_weight(shape=(input_shape[-1], 4), name="down")
            self.up = self.add_weight(shape=(4, 64), name="up")

        def call(self, inputs):
            return inputs @ self.down @ self.up

        def get_prunable_weights(self):
            return [self.up]
    ```
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Return the variables to prune, a list of `keras.Variable`; the layer is built."""
        raise NotImplementedError


def prunable_weights(layer):
    """Return the `Weight`s of a built layer that a wrapper prunes.

    Those that are frozen are among them: a wrapper still has their masks.
    """
    found = weights_of(layer)
    if isinstance(layer, keras.layers.SpectralNormalization):
        return []  # It computes its kernel again in the forward pass.
    if not names_its_weights(layer):
        return [w for w in found if w.reason is None or _is_frozen(w)]
    by_variable = {id(weight.variable): weight for weight in found}
    try:
        return [by_variable[id(variable)] for variable in layer.get_prunable_weights()]
    except KeyError:
        raise ValueError(
            f"{type(layer).__name__}.get_prunable_weights() must return variables of the layer. "
            f"Received: {layer.get_prunable_weights()!r}"
        ) from None


def weights_are_known(layer):
    """Whether the layer has all its weights: it is built, or never will have any."""
    return is_built(layer) or not (has_own_build(layer) or sublayers(layer))


def is_depthwise(weight):
    """Whether a `Weight` is the kernel of a depthwise convolution."""
    depthwise = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    return weight.variable.name == "depthwise_kernel" or isinstance(weight.layer, depthwise)


def _is_frozen(weight):
    was_trainable = any(weight.variable is v for v in made_trainable(weight.layer))
    return weight.reason == FROZEN and was_trainable


def passes_through(layer):
    """Whether a layer with nothing to prune is meant to have nothing, as Keras' own ones."""
    if isinstance(layer, keras.layers.SpectralNormalization):
        return False
    return names_its_weights(layer) or all(is_builtin(weight.layer) for weight in weights_of(layer))


def nothing_to_prune(layer):
    """Return the `ValueError` that says why a layer cannot be wrapped."""
    reasons = "; ".join(f"{w.name}: {w.reason}" for w in weights_of(layer)[:10])
    return ValueError(
        f"The layer {layer.name!r} ({type(layer).__name__}) has no weight that can be wrapped and "
        f"pruned ({reasons or 'it has no weights'}). Leave it as it is, or, if it is your own, "
        "let `get_prunable_weights` say what to prune (kprune.PrunableLayer)."
    )
