"""Each function of `kprune._keras.recording` does on this Keras what it says."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune._keras import recording

numpy = ops.convert_to_numpy


class Block(layers.Layer):
    """Layers of one name, a weight and an array on the left of operators, a shape."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = layers.Dense(6, name="same"), layers.Dense(4, name="same")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 6))
        self.gain = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x, training=None):
        y = self.gain * self.second(self.first(x))
        y = 2.0 * self.gain * y
        y = y + 1.0 if training else y
        return ops.reshape(y, (ops.shape(x)[0], -1))


class Several(layers.Layer):
    def call(self, x):
        return x * 2.0, None


class Outer(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = Several()

    def call(self, x):
        return self.inner(x)[0] + 1.0


def _symbolic(*shape):
    return keras.KerasTensor(shape)


def test_recorded_call():
    block = Block(name="block")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    expected = block(x)
    model = recording.recorded_call(block, (_symbolic(2, 3, 4),), {})
    np.testing.assert_allclose(numpy(model(x)), numpy(expected), 1e-5, 1e-5)
    assert model.name == "block"
    assert [layer for layer in model.layers if layer is block.first]
    assert len(recording.recorded_call(block, (_symbolic(2, 3, 4),), {}, True).operations) == (
        len(model.operations) + 1
    )


def test_recorded_call_leaves_no_trace():
    block = Block()
    inputs = keras.Input((3, 4))
    outputs = block(inputs)
    with pytest.raises(Exception, match="None"):  # Of a batch that is not known.
        recording.recorded_call(Outer(), (None,), {})
    recording.recorded_call(block, (_symbolic(1, 3, 4),), {})
    assert block.output is outputs
    assert [part.name for part in (block.first, block.second)] == ["same", "same"]
    with pytest.raises(AttributeError):
        _ = block.first.output  # As before: no graph of the user's has it.
    assert "compute_output_spec" not in vars(block)
    assert keras.Layer.__call__.__module__.startswith("keras")


def test_recorded_call_of_layers_that_return_more_than_tensors():
    outer = Outer()
    with pytest.raises(ValueError, match="non-tensor"):
        recording.recorded_call(outer, (_symbolic(2, 3),), {})
    model = recording.recorded_call(outer, (_symbolic(2, 3),), {}, inline=[outer.inner])
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(numpy(model(x)), 3 * x)


def test_recorded_call_with_constant_outputs():
    class Constant(layers.Layer):
        def call(self, x):
            return ops.ones((2,))

    with pytest.raises(ValueError, match="does not depend"):
        recording.recorded_call(Constant(), (_symbolic(2, 3),), {})


def test_of_any_batch():
    block = Block()
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    expected = block(x)
    model = recording.of_any_batch(recording.recorded_call(block, (_symbolic(1, 3, 4),), {}))
    np.testing.assert_allclose(numpy(model(x)), numpy(expected), 1e-5, 1e-5)


def test_has_mask():
    tokens = keras.Input((5,), dtype="int32")
    assert recording.has_mask(layers.Embedding(7, 3, mask_zero=True)(tokens))
    assert not recording.has_mask(layers.Embedding(7, 3)(tokens))


class Positions(layers.Layer):
    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(3, 4)

    def call(self, x):
        return x + self.embed(ops.arange(3))


def test_given():
    """What a layer inside is called on may be in the graph, though it needs no input."""
    layer = Positions()
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    expected = numpy(layer(x))
    for with_given in (False, True):
        model = recording.recorded_call(layer, (_symbolic(None, 3, 4),), {}, with_given=with_given)
        np.testing.assert_allclose(numpy(model(x)), expected, 1e-5, 1e-5)
        kinds = [type(one) for one in model.operations]
        assert (recording.Given in kinds) == (layers.Embedding in kinds) == with_given


class Two(layers.Layer):
    def call(self, second, first):
        return second + first[..., :1]


def test_inputs_in_the_order_of_flatten():
    """Which sorts by names; on PyTorch `map_structure` does not."""
    model = recording.recorded_call(
        Two(), (), {"second": _symbolic(1, 3), "first": _symbolic(1, 2)}
    )
    assert [tensor.shape for tensor in model.inputs] == [(1, 2), (1, 3)]
