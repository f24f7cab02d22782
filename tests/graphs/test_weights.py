"""Which models have their weights, and which are not built."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.graphs.weights import check_model
from tests.helpers.partly_built import Wrapper


class Scaled(keras.Model):
    """Has no kernel, and a layer that its call does not use."""

    def __init__(self):
        super().__init__()
        self.norm, self.auxiliary = layers.LayerNormalization(), layers.Dense(3)

    def call(self, x):
        return self.norm(x)


class Around(keras.Model):
    """Is never called itself; its parts hold no kernel."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def call(self, x):
        return self.part(x)


def called(model):
    model(np.zeros((2, 5), "float32"))
    return model


def test_what_keras_called_is_built_whatever_its_call_leaves_out():
    check_model(called(Scaled()))


def test_a_model_around_parts_that_have_their_weights_is_built():
    assert not Wrapper().built
    check_model(Wrapper())
    check_model(Around(called(layers.LayerNormalization())))
    check_model(Around(keras.Sequential([keras.Input((5,)), layers.LayerNormalization()])))


def test_layers_with_inner_lookups_do_not_make_a_model_unbuilt():
    words = layers.TextVectorization(20, output_sequence_length=6)
    words.adapt(["a b c", "d e f g"])
    check_model(keras.Sequential([keras.Input((), dtype="string"), words]))


@pytest.mark.parametrize(
    "model",
    [Scaled, lambda: Around(layers.Dense(3)), lambda: keras.Sequential([layers.Dense(3)])],
)
def test_what_has_no_weights_is_not_built(model):
    with pytest.raises(ValueError, match="is not built"):
        check_model(model())
