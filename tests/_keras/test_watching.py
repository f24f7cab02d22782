"""`kprune._keras.watching` sees on this Keras what a model computes."""

import functools

import keras
import pytest

from kprune._keras.watching import watched
from kprune.graphs.products import PRODUCTS


def seen_in(model, *shape):
    """The products and the operations of a model's symbolic run, by name."""
    products, operations = [], []

    def product(original, name):
        def noted(*args, **kwargs):
            products.append(name)
            return original(*args, **kwargs)

        return noted

    def call(original):
        @functools.wraps(original)
        def noted(operation, *args, **kwargs):
            operations.append(operation.name)
            return original(operation, *args, **kwargs)

        return noted

    class Run(keras.Operation):
        def call(self, inputs):
            products.clear()
            operations.clear()
            return model(inputs)

    with watched({name: functools.partial(product, name=name) for name in PRODUCTS}, call, call):
        Run().compute_output_spec(keras.KerasTensor(shape))
    return products, operations


@pytest.mark.parametrize(
    ("layer", "shape", "product"),
    [
        (keras.layers.Dense(2, name="it"), (1, 3), "numpy.matmul"),
        (keras.layers.Conv2D(2, 3, name="it"), (1, 4, 4, 2), "nn.conv"),
        (keras.layers.DepthwiseConv2D(3, name="it"), (1, 4, 4, 2), "nn.depthwise_conv"),
        (keras.layers.SeparableConv2D(2, 3, name="it"), (1, 4, 4, 2), "nn.separable_conv"),
        (keras.layers.Conv2DTranspose(2, 3, name="it"), (1, 4, 4, 2), "nn.conv_transpose"),
        (keras.layers.EinsumDense("ab,bc->ac", 2, name="it"), (1, 3), "numpy.einsum"),
        (keras.layers.LSTM(2, name="it"), (1, 3, 2), "numpy.matmul"),
        (keras.layers.GRU(2, name="it"), (1, 3, 2), "numpy.matmul"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_watched(layer, shape, product):
    model = keras.Sequential([keras.Input(batch_shape=shape), layer])
    call = keras.Operation.__call__
    products, operations = seen_in(model, *shape)
    assert product in products
    assert "it" in operations
    assert keras.Operation.__call__ is call
    assert seen_in(model, *shape) == (products, operations)


def test_watched_undoes_itself_after_an_error():
    before = keras.Operation.__call__, keras.layers.RNN.call
    with pytest.raises(KeyError), watched({}, lambda f: f, lambda f: f):
        raise KeyError
    assert (keras.Operation.__call__, keras.layers.RNN.call) == before
