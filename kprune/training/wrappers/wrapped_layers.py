"""The mechanism that layers of one class of wrapper are: wrapped, and unwrapped again."""

import keras

from kprune._keras.layers import flatten_layers
from kprune.graphs.replace import replace_layers
from kprune.training.mechanism import Mechanism


class WrappedLayers(Mechanism):
    """Layers of a model that are wrapped in a class of wrapper.

    Attributes:
        wrapper: the class, a `ReplacingWrapper`.
    """

    wrapper: type[keras.layers.Wrapper]

    def found_in(self, model):
        """Return the wrappers in a layer or model, itself included."""
        return [part for part in flatten_layers(model) if isinstance(part, self.wrapper)]

    def write(self, wrapper):
        """Write the values that the wrapped layer computes with into its weights."""
        raise NotImplementedError

    def release(self, wrapper):
        """Take from the wrapped layer what the wrapper has added to it, if it has."""

    def install(self, model, wrap):
        """Return a model, or layer, whose layers are what a function makes of them."""

        def replacement(part):
            return part if isinstance(part, keras.Model) else wrap(part)

        return replace_layers(model, replacement, lambda part: isinstance(part, keras.Model))

    def remove(self, model):
        wrappers = self.found_in(model)
        for wrapper in wrappers:
            self.write(wrapper)
        plain = replace_layers(
            model,
            lambda part: part.layer if isinstance(part, self.wrapper) else part,
            inside=lambda part: True,
        )
        for wrapper in wrappers:
            self.release(wrapper)
        return plain
