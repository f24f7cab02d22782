"""Penalties in `fit`: zeros that come of themselves, and the sparsity that was asked for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.pruning import DensityPenalty, Fisher, GrowingRegularization, Lasso
from tests.helpers.training import apply_step, compiled, data, expected_zeros, kernels, mlp, zeros


def _fit(model, epochs=6, optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    compiled(model, optimizer or keras.optimizers.Adam(0.01))
    x, y = data()
    pruning = kprune.Pruning(**arguments)
    return model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=[pruning])


def test_alone_it_makes_zeros_that_stay_to_the_end():
    model = mlp()
    history = _fit(model, penalty=Lasso(0.5)).history
    dense = mlp()
    _fit(dense, sparsity=0.0)
    found = sum(zeros(model).values()) / sum(k.size for k in kernels(model).values())
    assert sum(zeros(dense).values()) == 0
    assert found > 0.05
    assert history["sparsity"][-1] == pytest.approx(found, abs=1e-6)
    assert history["near_zero"][-1] >= found - 1e-6
    assert "near_zero" not in _fit(mlp(), sparsity=0.5, epochs=1).history


@pytest.mark.parametrize(
    "penalty", [Lasso(0.02), DensityPenalty(0.05), GrowingRegularization(1.0)], ids=str
)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.fast_for("float32-GrowingRegularization(strength=1.0)")
def test_before_pruning_the_sparsity_is_what_was_asked(penalty, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = mlp()
        _fit(model, sparsity=0.75, penalty=penalty)
    finally:
        keras.config.set_dtype_policy("float32")
    assert zeros(model) == expected_zeros(model, 0.75)


def test_it_fades_out_what_the_criterion_will_prune():
    model = mlp()
    _fit(model, sparsity=0.5, criterion=Fisher(), penalty=GrowingRegularization(2.0))
    assert zeros(model) == expected_zeros(model, 0.5)


def _network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(24, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(2, name="head"),
        ]
    )


def test_with_channels_whole_ones_go_and_shrink_removes_them():
    model = _network()
    _fit(model, penalty=Lasso(0.4), pattern=kprune.Channels(), epochs=10)
    model = kprune.strip_pruning(model)
    gone = (kernels(model)["first/kernel"] == 0).all(axis=0)
    assert 0 < gone.sum() < 24
    gamma, beta = (ops.convert_to_numpy(v) for v in model.get_layer("norm").trainable_variables)
    assert (gamma[gone] == 0).all()
    assert (beta[gone] == 0).all()
    small = kprune.shrink(model)
    assert small.get_layer("first").units < 24
    x, _ = data()
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("penalty", [Lasso(0.05), GrowingRegularization(1.0)], ids=str)
def test_with_channels_and_a_sparsity(penalty):
    model = _network()
    history = _fit(model, sparsity=0.5, penalty=penalty, pattern=kprune.Channels()).history
    assert history["sparsity"][-1] == 0.5


def test_layers_have_penalties_of_their_own():
    model = mlp()
    layers = {"first": {"sparsity": 0.0, "penalty": Lasso(1.0)}, "head": None}
    _fit(model, sparsity=0.5, layers=layers)
    found = zeros(model)
    assert found["head/kernel"] == 0
    assert found["second/kernel"] == expected_zeros(model, 0.5)["second/kernel"]
    assert found["first/kernel"] > 0


def test_it_waits_for_steps_of_the_optimizer():
    """While gradients accumulate nothing is taken off."""
    kernel = keras.Variable(np.array([[0.5] * 3, [1] * 3], "float32"), name="kernel")
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        kprune.ConstantSparsity(0.0, 0),
        penalty=Lasso(1.0),
    )
    seen = []
    for _ in range(4):
        apply_step(optimizer, [np.zeros((2, 3), "float32")], [kernel])
        seen.append(float(kernel.value[0, 0]))
    np.testing.assert_allclose(seen, [0.5, 0.4, 0.4, 0.3], atol=1e-6)


def test_the_rate_is_that_of_the_optimizers_schedule():
    kernel = keras.Variable(np.array([[0.5, 2.0]], "float32"), name="kernel")
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(rates), kprune.ConstantSparsity(0.0, 0), penalty=Lasso(1.0)
    )
    taken = []
    for _ in range(4):
        before = float(kernel.value[0, 0])
        apply_step(optimizer, [np.zeros((1, 2), "float32")], [kernel])
        taken.append(before - float(kernel.value[0, 0]))
    np.testing.assert_allclose(taken[-1], 0.01, rtol=1e-3)
    assert taken[0] == pytest.approx(0.1, rel=1e-3)


def test_optimizers_are_made_again_with_it():
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(), kprune.ConstantSparsity(0.5, 0), penalty=Lasso(0.25)
    )
    config = keras.saving.serialize_keras_object(optimizer)
    assert keras.saving.deserialize_keras_object(config).penalty.strength == 0.25
