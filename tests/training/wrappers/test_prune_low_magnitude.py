"""Layers in wrappers: when they are pruned in `fit`, and to what."""

import keras
import numpy as np
import pytest

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import backend, compiled, data
from tests.helpers.wrapped import (
    NOW,
    expected_zeros,
    fit,
    numpy,
    steps,
    wrapped_mlp,
    zeros,
)


@pytest.mark.fast_for("{}-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("how", [{}, {"jit_compile": False}, {"steps_per_execution": 3}], ids=str)
def test_sparsity_is_exact_at_the_end_of_fit_however_it_is_compiled(policy, how):
    if how and (backend() == "torch" or policy != "float32"):
        pytest.skip("torch compiles nothing, one step at a time; the policy changes no more")
    if backend() == "jax" and "jit_compile" in how:
        pytest.skip("JAX traces every step anew: half a minute")
    keras.config.set_dtype_policy(policy)
    model = compiled(wrapped_mlp(), **how)
    fit(model, kprune.UpdatePruningStep())
    assert zeros(model) == expected_zeros(model, 0.8)
    assert steps(model) == {14}


@pytest.mark.fast_for("14-14")
@pytest.mark.parametrize(("made", "update"), [(13, 1), (14, 14)])
def test_updates_come_with_the_step_they_are_scheduled_for(made, update):
    schedule = kprune.PolynomialDecay(0.1, 0.8, begin_step=0, end_step=14, frequency=20)
    model = compiled(wrapped_mlp(schedule))
    fit(model, steps=made, epochs=1)
    expected = expected_zeros(model, schedule(update)[1])
    assert [masked for _, masked in zeros(model)] == [masked for _, masked in expected]


@pytest.mark.slow
def test_nothing_is_pruned_before_begin_step():
    model = compiled(wrapped_mlp(kprune.ConstantSparsity(0.5, 5, frequency=1)))
    fit(model, kprune.UpdatePruningStep(), steps=4)
    assert zeros(model) == expected_zeros(model, 0)
    fit(model, kprune.UpdatePruningStep(), steps=1, epochs=1)
    assert zeros(model) == expected_zeros(model, 0.5)


def test_evaluation_and_prediction_make_no_step():
    model = compiled(wrapped_mlp())
    x, y = data(32)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x)
    assert steps(model) == {-1}  # TFMOT's for "never trained".
    model(x, training=True)
    assert steps(model) == {1}


def test_gradients_do_not_reach_what_is_masked():
    model = compiled(wrapped_mlp(kprune.ConstantSparsity(0.6, 0, end_step=0)), "sgd")
    before = [numpy(v).copy() for w in wrappers_in(model) for v, _, _ in w.pruning_vars]
    fit(model)  # Without the callback, which would write zeros.
    after = [(numpy(v), numpy(m)) for w in wrappers_in(model) for v, m, _ in w.pruning_vars]
    for old, (new, mask) in zip(before, after):
        np.testing.assert_array_equal(new[~mask], old[~mask])
        assert (new[mask] != old[mask]).mean() > 0.5


def test_the_first_masks_and_thresholds_are_those_of_the_weights():
    model = wrapped_mlp(NOW)
    model(data(16)[0], training=True)
    for wrapper in wrappers_in(model):
        for weight, mask, threshold in wrapper.pruning_vars:
            magnitude = np.abs(numpy(weight))
            expected = numpy(kprune.pruning.compute_mask(magnitude, 0.6))
            np.testing.assert_array_equal(numpy(mask), expected)
            assert float(numpy(threshold)) == magnitude[expected].min()


@pytest.mark.slow
def test_training_prunes_without_the_callback_and_files_are_sparse(tmp_path):
    model = compiled(wrapped_mlp())
    fit(model)
    assert [count for _, count in zeros(model)] == [c for _, c in expected_zeros(model, 0.8)]
    x = data(32)[0]
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "wrapped.keras")
    model.save_weights(tmp_path / "wrapped.weights.h5")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert zeros(loaded) == expected_zeros(loaded, 0.8)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    again = wrapped_mlp()
    again.load_weights(tmp_path / "wrapped.weights.h5")
    assert zeros(again) == expected_zeros(again, 0.8)
    assert steps(again) == {14}


@pytest.mark.slow
def test_validation_sees_what_is_saved():
    model = compiled(wrapped_mlp(), metrics=["accuracy"])
    x, y = data(64, seed=1)
    history = fit(model, kprune.UpdatePruningStep(), validation_data=(x, y)).history
    loss, accuracy = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(history["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(history["val_accuracy"][-1], accuracy, rtol=1e-5)


@pytest.mark.slow
def test_moving_averages_of_the_weights_end_sparse():
    model = compiled(wrapped_mlp(), keras.optimizers.Adam(use_ema=True))
    fit(model, kprune.UpdatePruningStep())
    assert zeros(model) == expected_zeros(model, 0.8)
