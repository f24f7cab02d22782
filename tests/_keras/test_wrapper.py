"""A layer in a `ReplacingWrapper` is to this Keras what it is without one."""

import keras
import numpy as np
import pytest
from keras import ops

from kprune._keras.wrapper import ReplacingWrapper


class Doubling(ReplacingWrapper):
    """Its layer's kernel reads as twice what it is."""

    def replaced_values(self):
        return [self.layer.kernel], [2 * ops.convert_to_tensor(self.layer.kernel)]


def test_replacing_wrapper():
    model = keras.Sequential(
        [keras.Input((2,)), Doubling(keras.layers.Dense(2, kernel_initializer="ones", name="a"))]
    )
    found = ops.convert_to_numpy(model(np.ones((1, 2), "float32")))
    assert found.tolist() == [[4.0, 4.0]]
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)
    wrapper = model.layers[0]
    assert ops.convert_to_numpy(wrapper.layer.kernel).tolist() == [[1.0, 1.0]] * 2
    assert [v.path for v in wrapper.layer.variables] == ["a/kernel", "a/bias"] or all(
        "doubling" not in v.path for v in wrapper.layer.variables
    )


def test_replacing_wrapper_takes_what_the_layer_takes():
    class Two(keras.layers.Layer):
        def build(self, left_shape, right_shape):
            self.kernel = self.add_weight(shape=(left_shape[-1], right_shape[-1]), name="kernel")

        def call(self, left, right, scale=1.0):
            return scale * (left @ self.kernel @ ops.transpose(right))

    layer = Doubling(Two())
    left, right = np.ones((1, 2), "float32"), np.ones((1, 3), "float32")
    once, thrice = layer(left, right=right), layer(left, right, scale=3.0, training=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(thrice), 3 * ops.convert_to_numpy(once), rtol=1e-5
    )
    assert tuple(layer.layer.kernel.shape) == (2, 3)


@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.SimpleRNN])
def test_replacing_wrapper_passes_masks(kind):
    class Plain(ReplacingWrapper):
        def replaced_values(self):
            return [], []

    inner = kind(2)
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    x[:, 2:] = 0
    masked = keras.Sequential([keras.Input((4, 3)), keras.layers.Masking(), Plain(inner)])
    bare = keras.Sequential([keras.Input((4, 3)), keras.layers.Masking(), inner])
    np.testing.assert_allclose(
        ops.convert_to_numpy(masked(x)), ops.convert_to_numpy(bare(x)), rtol=1e-5
    )
