"""What cannot be wrapped."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import mlp
from tests.helpers.wrapped import (
    NOW,
)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: kprune.prune_low_magnitude(layers.Dense(2)), ValueError, "wrapped already"),
        (lambda: "dense", TypeError, "Keras 3"),
        (lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]), ValueError, "no layer"),
    ],
)
def test_what_cannot_be_pruned_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        kprune.prune_low_magnitude(make())


def test_a_layer_of_your_own_with_nothing_to_prune_is_refused_when_it_is_built():
    class Scale(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=shape[-1:], name="factor")

        def call(self, inputs):
            return inputs * self.factor

    wrapper = kprune.prune_low_magnitude(Scale())
    with pytest.raises(ValueError, match="rank below 2"):
        wrapper(np.ones((2, 3), "float32"))


def test_a_layer_that_computes_its_kernel_is_left_and_refused():
    normed = layers.SpectralNormalization(layers.Dense(4))
    model = keras.Sequential([keras.Input((3,)), normed, layers.Dense(2)])
    assert kprune.prune_low_magnitude(model).layers[0] is normed
    with pytest.raises(ValueError, match="no weight that can be wrapped"):
        kprune.prune_low_magnitude(normed)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"block_pooling_type": "MIN"}, ValueError),
        ({"block_size": (0, 1)}, ValueError),
        ({"block_size": 4}, ValueError),
        ({"sparsity_m_by_n": 2}, ValueError),
        ({"sparsity_m_by_n": (4, 2)}, ValueError),
        ({"sparsity_m_by_n": (2, 4, 8)}, ValueError),
        ({"sparsity_m_by_n": (2, 4), "block_size": (4, 1)}, ValueError),
        ({"pruning_schedule": 0.5}, TypeError),
        ({"unknown": 1}, ValueError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error):
        kprune.prune_low_magnitude(layers.Dense(2), **kwargs)
    if "unknown" not in kwargs:
        with pytest.raises(error):
            kprune.prune_low_magnitude(mlp(), **kwargs)


def test_a_model_ignores_the_arguments_of_a_layer_as_in_tfmot():
    model = kprune.prune_low_magnitude(mlp(), NOW, input_shape=(20,), unknown=1)
    assert len(wrappers_in(model)) == 3


def test_a_tf_keras_model_is_told_where_to_go():
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(TypeError, match="tf_keras"):
        kprune.prune_low_magnitude(tf_keras.Sequential([tf_keras.layers.Dense(2)]))


def test_a_graph_with_behaviour_of_its_own_is_not_reduced_to_its_graph():
    class Own(keras.Sequential):
        def train_step(self, *args):
            return super().train_step(*args)

    model = Own([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="train_step"):
        kprune.prune_low_magnitude(model)
    assert not wrappers_in(model)


def test_layers_hidden_from_keras_are_reported_and_nothing_changes():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.seen = layers.Dense(2)
            self.holder = type("Holder", (), {})()
            self.holder.layer = layers.Dense(2)
            self._tracker.track(self.holder.layer)

    model = Hidden()
    with pytest.raises(ValueError, match="not in its attributes"):
        kprune.prune_low_magnitude(model)
    assert not wrappers_in(model)
