"""`Pruning` in `fit`: exact sparsity, and the schedule it follows."""

import os
import warnings

import keras
import numpy as np
import pytest

import kprune
from tests.helpers.training import (
    backend,
    compiled,
    expected_zeros,
    fit,
    kernels,
    mlp,
    schedule_of,
    zeros,
)

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")


@pytest.mark.fast_for("default-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "how",
    [{}, {"jit_compile": True}, {"jit_compile": False}, {"steps_per_execution": 7}],
    ids=lambda how: "-".join(map(str, how.items())) or "default",
)
def test_exact_sparsity_however_it_is_compiled(policy, how):
    if backend() == "torch" and how:
        pytest.skip("torch compiles nothing, one step at a time")
    if policy == "mixed_float16" and "jit_compile" in how and "max_isa" in XLA_FLAGS:
        pytest.skip("XLA compiles no float16 for processors without F16C, of Keras alone either")
    keras.config.set_dtype_policy(policy)
    model = compiled(mlp(), **how)
    op_by_op = backend() == "jax" and how == {"jit_compile": False}  # Seconds a step.
    history = fit(model, kprune.Pruning(0.9), n=32 if op_by_op else 256)
    assert zeros(model) == expected_zeros(model, 0.9)
    total = sum(value.size for value in kernels(model).values())
    assert history.history["sparsity"][-1] == sum(zeros(model).values()) / total
    assert history.history["sparsity"] == sorted(history.history["sparsity"])


@pytest.mark.fast_for("ema")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
        lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=5),
        lambda: keras.optimizers.AdamW(weight_decay=0.1, global_clipnorm=1.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 64)),
    ],
    ids=["accumulation", "ema", "ema-overwrite", "adamw-clip", "loss-scale", "lr-schedule"],
)
def test_exact_sparsity_with_every_kind_of_optimizer(optimizer):
    model = compiled(mlp(), optimizer())
    fit(model, kprune.Pruning(0.8))
    assert zeros(model) == expected_zeros(model, 0.8)


def test_default_schedule_comes_from_the_fit():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9), epochs=5, batch_size=8)  # 160 steps
    schedule = schedule_of(model)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == (16, 112, 2)
    assert sum(bool(schedule(step)[0]) for step in range(161)) == 49


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"begin": 0.0, "end": 1.0}, (0, 64, 1)),
        ({"begin": 4, "end": 40, "frequency": 10}, (4, 40, 10)),
        ({"begin": 0.5, "end": 60}, (32, 60, 1)),
    ],
)
def test_window_in_fractions_or_steps(arguments, expected):
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9, **arguments))
    schedule = schedule_of(model)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == expected
    assert zeros(model) == expected_zeros(model, 0.9)


def test_frequency_is_at_most_a_hundred():
    callback = kprune.Pruning(0.9)
    model = mlp()
    callback.set_model(compiled(model))
    callback.set_params({"epochs": 10, "steps": 5000})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    assert schedule_of(model).frequency == 100


@pytest.mark.slow
def test_steps_count_updates_under_gradient_accumulation():
    model = compiled(mlp(), keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    fit(model, kprune.Pruning(0.9, begin=0.0, end=1.0))  # 64 batches, 16 updates
    assert schedule_of(model).end_step == 16
    assert zeros(model) == expected_zeros(model, 0.9)


@pytest.mark.slow
def test_explicit_schedule_and_a_run_that_is_too_short():
    schedule = kprune.PolynomialDecay(0.0, 0.9, 0, 1000, power=1, frequency=10)
    model = compiled(mlp())
    with pytest.warns(UserWarning, match=r"ends at step 64.*end_step=1000.*sparsity 0\.054, not"):
        fit(model, kprune.Pruning(schedule=schedule))
    assert zeros(model) == expected_zeros(model, 0.054)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(compiled(mlp()), kprune.Pruning(0.9))


@pytest.mark.slow
def test_mask_updates_land_on_the_end():
    schedule = kprune.PolynomialDecay(0.0, 0.8, 10, 45, frequency=10)
    model = compiled(mlp())
    fit(model, kprune.Pruning(schedule=schedule))
    assert zeros(model) == expected_zeros(model, 0.8)


@pytest.mark.slow
def test_further_training_keeps_the_zeros():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9))
    before = {name: value == 0 for name, value in kernels(model).items()}
    fit(model, epochs=2)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value == 0, before[name])


@pytest.mark.slow
def test_a_second_fit_goes_on_from_the_first():
    model = compiled(mlp())
    callback = kprune.Pruning(0.5)
    fit(model, callback)
    first = {name: value == 0 for name, value in kernels(model).items()}
    history = fit(model, kprune.Pruning(0.9))
    assert min(history.history["sparsity"]) >= 0.499
    assert schedule_of(model).initial_sparsity == pytest.approx(0.5, abs=1e-3)
    assert zeros(model) == expected_zeros(model, 0.9)
    assert not isinstance(model.optimizer.base_optimizer, kprune.PruningOptimizer)
    for name, value in kernels(model).items():
        assert (first[name] <= (value == 0)).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False])
def test_a_sequential_built_by_fit(built):
    model = compiled(mlp(built=built))
    fit(model, kprune.Pruning(0.9))
    assert zeros(model) == expected_zeros(model, 0.9)
