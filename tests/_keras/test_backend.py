"""Each function of `kprune._keras.backend` does on this Keras, and backend, what it says."""

import keras
import numpy as np
import pytest
from keras import ops

from kprune._keras import backend


def numbers(tensor):
    return ops.convert_to_numpy(tensor).tolist()


@pytest.fixture
def variable():
    return keras.Variable(np.array([1.0, -2.0, 3.0], "float32"), name="w")


@pytest.fixture
def mask():
    return ops.convert_to_tensor(np.array([True, False, True]))


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    model.evaluate(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    model.predict(np.ones((2, 2)), verbose=0)
    return model


def test_is_tensorflow():
    assert backend.is_tensorflow() == (keras.config.backend() == "tensorflow")


def test_jit_on_jax():
    assert numbers(backend.jit_on_jax(lambda x: x + 1)(ops.ones((2,)))) == [2, 2]


def test_holds_values():
    assert backend.holds_values(ops.ones((2,)))
    assert backend.holds_values(np.ones(2))
    assert not backend.holds_values(keras.KerasTensor((2,)))
    seen = []

    class Layer(keras.layers.Layer):
        def call(self, inputs):
            seen.append(backend.holds_values(inputs))
            return inputs

    Layer()(keras.KerasTensor((2, 3)))
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("predicate", [True, False])
def test_cond(predicate):
    for known in (predicate, ops.convert_to_tensor(predicate)):
        found = backend.cond(known, lambda: ops.ones(()), lambda: ops.zeros(()))
        assert numbers(found) == predicate


def test_scalar():
    assert int(backend.scalar(ops.convert_to_tensor(3)) + 1) == 4


def test_where():
    assert backend.where(True, 1, 2) == 1
    assert int(backend.where(backend.scalar(3) > 4, 1, 2)) == 2


def test_while_loop():
    start = (backend.scalar(ops.convert_to_tensor(0)),)
    (found,) = backend.while_loop(lambda i: i < 5, lambda i: (i + 2,), start)
    assert int(found) == 6


def test_count_true():
    values = np.random.default_rng(0).random((7, 300)) < 0.4
    assert int(backend.count_true(ops.convert_to_tensor(values))) == values.sum()


def test_assign_masked(variable, mask):
    state = keras.Variable(np.ones(3, bool), dtype="bool", trainable=False)
    backend.assign_masked([variable], [mask], [state])
    assert numbers(variable) == [1, 0, 3]
    assert numbers(state) == [True, False, True]


def test_assign_all(variable):
    backend.assign_all([variable], [ops.zeros((3,))])
    assert numbers(variable) == [0, 0, 0]


def test_apply_mask(variable, mask):
    found = ops.convert_to_numpy(backend.apply_mask(variable, mask))
    assert found.tolist() == [1, 0, 3]
    assert not np.signbit(found).any()


def test_mean_over_replicas():
    found = backend.mean_over_replicas([ops.ones((2,)), None])
    assert numbers(found[0]) == [1, 1]
    assert found[1] is None


def test_sum_over_replicas():
    (found,) = backend.sum_over_replicas([ops.ones((2,))], after=[ops.zeros(())])
    assert numbers(found) == [1, 1]


def test_mask_gradient(mask):
    assert backend.mask_gradient(None, mask) is None
    assert numbers(backend.mask_gradient(ops.ones((3,)), mask)) == [1, 0, 1]


def test_readable(variable):
    with backend.readable([variable]):
        assert numbers(variable) == [1, -2, 3]


def test_check_strategy(model):
    backend.check_strategy(model)

    class ParameterServerStrategyV2:
        pass

    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other._distribute_strategy = ParameterServerStrategyV2()
    with pytest.raises(ValueError, match="ParameterServerStrategy"):
        backend.check_strategy(other)


def test_is_concrete():
    assert backend.is_concrete()
    found = []

    class Layer(keras.layers.Layer):
        def call(self, inputs):
            found.append(backend.is_concrete())
            return inputs

    model = keras.Sequential([keras.Input((2,)), Layer()])
    model.compile("sgd", "mse")
    found.clear()
    model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)
    assert found[-1] == (keras.config.backend() == "torch")


def test_read(variable):
    assert numbers(backend.read(variable)) == [1, -2, 3]


def test_to_int():
    assert backend.to_int(keras.Variable(4, dtype="int32", trainable=False)) == 4


def test_variable_scope(model):
    with backend.variable_scope(model):
        assert numbers(keras.Variable(1.0)) == 1


def test_recompile(model):
    before = model.train_function
    backend.recompile(model)
    assert model.train_function is not before
    model.train_function = None
    backend.recompile(model)
    assert model.train_function is None


def test_forget_compiled(model):
    assert model.test_function is not None
    assert model.predict_function is not None
    backend.forget_compiled(model)
    assert model.test_function is None
    assert model.predict_function is None
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)


def test_steps_to_renew(model):
    for name in backend.steps_to_renew():
        assert callable(getattr(model, name))
