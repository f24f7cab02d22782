"""Each function of `kprune._keras.optimizers` does on this Keras what it says."""

import keras
import numpy as np
import pytest
from keras import ops

from kprune._keras import optimizers, tracking


@pytest.fixture
def variables():
    return [keras.Variable(np.ones((2,), "float32"), name=name) for name in ("a", "b")]


def stepped(optimizer, variables, steps=1):
    optimizer.build(variables)
    for _ in range(steps):
        optimizer.apply([ops.ones((2,)) for _ in variables])
    return optimizer


def test_variable_keys(variables):
    optimizer = stepped(keras.optimizers.SGD(), variables)
    keys = optimizers.variable_keys(optimizer, variables)
    assert keys == optimizers.variable_keys(keras.optimizers.Adam(), variables)
    assert len(set(keys)) == 2


def test_variable_index(variables):
    optimizer = stepped(keras.optimizers.SGD(), variables)
    assert [optimizers.variable_index(optimizer, v) for v in variables] == [0, 1]


@pytest.mark.parametrize(("kind", "rho"), [("Adam", 0.999), ("Nadam", 0.999), ("RMSprop", 0.9)])
def test_mean_square(variables, kind, rho):
    optimizer = stepped(getattr(keras.optimizers, kind)(), variables, steps=2)
    found = ops.convert_to_numpy(optimizers.mean_square(optimizer, variables[1]))
    np.testing.assert_allclose(found, np.full(2, 1 - rho**2), 1e-4)
    assert optimizers.mean_square(stepped(keras.optimizers.SGD(), variables), variables[1]) is None


def test_trained_variables(variables):
    optimizer = stepped(keras.optimizers.Adam(), variables)
    found = optimizers.trained_variables(optimizer)
    assert [id(variable) for variable in found] == [id(variable) for variable in variables]


def test_train(variables):
    class Wrapping(keras.optimizers.Optimizer):
        @tracking.untracked
        def build(self, variables):
            optimizers.train(self, variables)
            self.built = True

        def apply(self, grads, trainable_variables=None):
            self.given = grads

    optimizer = Wrapping(0.1)
    before = len(optimizer.variables)
    optimizer.build(variables)
    assert optimizers.trained_variables(optimizer) == variables
    assert optimizers.variable_index(optimizer, variables[1]) == 1
    assert len(optimizer.variables) == before


def test_moving_averages(variables):
    optimizer = stepped(keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5), variables, 2)
    found = optimizers.moving_averages(optimizer, variables[::-1])
    # After steps to 0 and -1, whichever way the first average begins.
    assert [tuple(average.shape) for average in found] == [(2,), (2,)]
    optimizer.finalize_variable_values(variables)
    for average, variable in zip(found, variables[::-1]):
        np.testing.assert_array_equal(ops.convert_to_numpy(average), ops.convert_to_numpy(variable))


def test_steps_made(variables):
    optimizer = stepped(keras.optimizers.SGD(gradient_accumulation_steps=2), variables, 5)
    assert int(ops.convert_to_numpy(optimizers.steps_made(optimizer))) == 5
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 2


def test_learning_rate_variable():
    optimizer = keras.optimizers.SGD(0.5)
    variable = optimizers.learning_rate_variable(optimizer)
    variable.assign(0.25)
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.25


def test_own_variables(variables):
    inner = keras.optimizers.Adam()
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    optimizer.build(variables)
    own = optimizers.own_variables(optimizer)
    assert len(own) > 0
    assert [id(v) for v in optimizer.variables] == [id(v) for v in [*own, *inner.variables]]


def test_keep_gradients(variables):
    optimizer = keras.optimizers.SGD(1.0)
    optimizers.keep_gradients(optimizer)
    stepped(optimizer, variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(variables[0]), [0, 0])
    if keras.backend.backend() == "tensorflow":  # What is replaced is there, and takes pairs.
        method = type(optimizer)._all_reduce_sum_gradients
        assert list(method(optimizer, [])) == []


def test_layout(variables):
    assert optimizers.layout(variables[0]) is None
    assert optimizers.layout(object()) is None


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (lambda: keras.optimizers.SGD(momentum=0.9), 1),
        (lambda: keras.optimizers.SGD(use_ema=True), 0),
        (lambda: keras.optimizers.Adam(amsgrad=True, gradient_accumulation_steps=2), 3),
        (lambda: keras.optimizers.RMSprop(momentum=0.9, centered=True), 3),
        (keras.optimizers.Adagrad, 1),
        (keras.optimizers.Adadelta, 2),
        (keras.optimizers.Adamax, 2),
        (keras.optimizers.Nadam, 2),
        (keras.optimizers.Lion, 1),
        (keras.optimizers.Ftrl, 2),
    ],
)
def test_slots(kind, number):
    """Of the variable asked for, though another one has the same shape."""
    variables = [keras.Variable(np.ones((3, 2))) for _ in range(2)]
    optimizer = kind()
    optimizer.build(variables)
    found = [optimizers.slots(optimizer, variable) for variable in variables]
    assert [len(slots) for slots in found] == [number, number]
    own = {id(v) for v in optimizer.variables}
    assert {id(slot) for slots in found for slot in slots} <= own
    assert not {id(slot) for slot in found[0]} & {id(slot) for slot in found[1]}
