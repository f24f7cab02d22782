"""Each part of `kprune._keras.scope` does on this Keras what it says."""

import keras
import numpy as np
import pytest

from kprune._keras.scope import ReplacedValues, first_call_of_step, made_once_a_step


class Counting(keras.layers.Layer):
    """Counts its calls in a variable, and adds what its kernel reads as to the losses."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(), initializer="ones", name="kernel")
        self.calls = self.add_weight(shape=(), initializer="zeros", name="calls", trainable=False)

    def call(self, inputs):
        self.calls.assign(self.calls + 1)
        self.add_loss(keras.ops.sum(self.kernel))
        return inputs * self.kernel


def value(variable):
    return float(keras.ops.convert_to_numpy(variable))


@pytest.mark.parametrize("around", [False, True], ids=["alone", "in a stateless scope"])
def test_replaced_values(around):
    layer = Counting()
    layer.build((None, 1))
    three = keras.ops.convert_to_tensor(3.0)

    def run():
        with ReplacedValues([layer.kernel], [three]) as scope:
            output = layer(keras.ops.ones((1, 1)))
        return float(keras.ops.convert_to_numpy(output)[0, 0]), scope

    if not around:
        output, scope = run()
        assert [value(loss) for loss in scope.own_losses] == [3.0]
        assert value(layer.calls) == 1
    else:
        with keras.StatelessScope(collect_losses=True) as outer:
            output, scope = run()
        assert scope.own_losses == []
        assert [value(loss) for loss in outer.losses] == [3.0]
        assert value(outer.get_current_value(layer.calls)) == 1
        assert value(layer.calls) == 0
    assert output == 3
    assert value(layer.kernel) == 1


def test_replaced_values_can_be_assigned_to():
    variable = keras.Variable(1.0)
    with ReplacedValues([variable], [keras.ops.convert_to_tensor(3.0)]):
        variable.assign(5.0)
        assert value(variable) == 5
    assert value(variable) == 5


def test_first_call_of_step():
    found = []

    class Noting(keras.layers.Layer):
        def call(self, inputs):
            found.append(first_call_of_step(self))
            return inputs

    layer = Noting()
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(layer(inputs)))
    assert not any(found)  # Only shapes were worked out.
    for _ in range(2):
        found.clear()
        model(np.ones((1, 2), "float32"))
        assert found == [True, False]
    found.clear()
    with keras.StatelessScope():
        model(np.ones((1, 2), "float32"))
        model(np.ones((1, 2), "float32"))
    assert found == [True, False, False, False]


def test_made_once_a_step():
    found, numbers = [], iter(range(10))

    class Noting(keras.layers.Layer):
        def call(self, inputs):
            found.append(made_once_a_step(self, lambda: next(numbers)))
            return inputs

    layer = Noting()
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(layer(inputs)))
    assert set(found) == {None}  # Only shapes were worked out.
    found.clear()
    for _ in range(2):
        model(np.ones((1, 2), "float32"))
    with keras.StatelessScope():
        model(np.ones((1, 2), "float32"))
        model(np.ones((1, 2), "float32"))
    assert found == [0, 0, 1, 1, 2, 2, 2, 2]
