"""Which models have their weights, as far as Keras itself would say, and which are not built."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.graphs.weights import check_model, has_weights
from tests.helpers.partly_built import Detector, Siamese, Wrapper, rows, text
from tests.helpers.training import backend


class Norms(keras.Model):
    """Has weights, and no kernel among them."""

    def __init__(self):
        super().__init__()
        self.norm, self.unused = layers.BatchNormalization(), layers.Dense(3)

    def call(self, x):
        return self.norm(x)


def called(model, *inputs):
    model(*inputs)
    return model


MODELS = {
    "unused layer": lambda: called(Detector(), rows(6)),
    "siamese": lambda: called(Siamese(), [rows(8), rows(8)]),
    "wrapper that is never called": Wrapper,
    "norms": lambda: called(Norms(), rows(6)),
    "no weights at all": lambda: called(keras.Sequential([layers.Rescaling(2.0)]), rows(6)),
    "sequential of strings": text,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_keras_runs_is_not_called_unbuilt(name):
    if "strings" in name and backend() != "tensorflow":
        pytest.skip("Keras runs no strings")
    check_model(MODELS[name]())


def test_what_has_no_weights_yet_is():
    started = keras.Sequential([called(layers.Dense(4), rows(6)), layers.Dense(3)])
    for model in (
        Detector(),
        Siamese().head,
        Norms(),
        keras.Sequential([layers.Dense(3)]),
        started,
    ):
        assert not has_weights(model)
        with pytest.raises(ValueError, match="is not built"):
            check_model(model)
    model = called(started, np.ones((2, 6), "float32"))
    check_model(model)


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


def test_what_keras_called_is_built_whatever_its_call_leaves_out():
    check_model(called(Scaled(), rows(5)))


def test_a_model_around_parts_that_have_their_weights_is_built():
    assert not Wrapper().built
    check_model(Wrapper())
    check_model(Around(called(layers.LayerNormalization(), rows(5))))
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
