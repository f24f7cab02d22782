"""Penalties: what they take off weights of which size, and when."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

import kprune
from kprune.pruning import DensityPenalty, GrowingRegularization, Lasso, Penalty
from tests.helpers.training import apply_step

SMALL = st.floats(-2, 2, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)


def _after(value, penalty, rate, pattern=None, schedule=None):
    """A kernel after a step without gradients."""
    kernel = keras.Variable(value, name="kernel")
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(rate),
        schedule or kprune.ConstantSparsity(0.0, 0),
        pattern=pattern,
        penalty=penalty,
    )
    apply_step(optimizer, [np.zeros_like(value)], [kernel])
    return ops.convert_to_numpy(kernel)


@settings(max_examples=25, deadline=None)
@given(arrays("float32", (4, 5), elements=SMALL), st.floats(0.01, 2), st.floats(0.01, 1))
def test_lasso_is_the_proximal_step_of_the_l1_norm(value, strength, rate):
    expected = np.sign(value) * np.maximum(np.abs(value) - rate * strength, 0)
    largest = np.abs(value) == np.abs(value).max()
    expected = np.where(largest, value, expected)
    np.testing.assert_allclose(_after(value, Lasso(strength), rate), expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(arrays("float32", (6, 4), elements=SMALL), st.floats(0.01, 1))
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_with_blocks_it_is_that_of_the_group_lasso(pooling, value, rate):
    """||block|| becomes smaller by rate x sqrt(entries): Yuan and Lin's weights."""
    got = _after(value, Lasso(0.5), rate, kprune.Block((3, 2), pooling))
    blocks = value.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3).reshape(4, 6).astype("float64")
    norms = np.linalg.norm(blocks, axis=1, keepdims=True)
    scale = np.maximum(1 - 0.5 * rate * np.sqrt(6) / np.maximum(norms, 1e-30), 0)
    scale[norms >= norms.max() * (1 - 1e-6)] = 1
    expected = (blocks * scale).reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).reshape(6, 4)
    near = np.isclose(norms, norms.max(), rtol=1e-4, atol=0).sum() > 1
    if not near:  # Rounding decides which one is the largest.
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_density_penalty_is_the_slope_of_the_smooth_count():
    value = np.array([[0.02, -0.1, 0.3], [1.0, -2.0, 0.0]], "float32")
    got = _after(value, DensityPenalty(0.05, width=0.1, ramp=False), 0.5)
    taken = 0.5 * 0.05 * np.exp(-np.abs(value) / 0.1)
    expected = np.sign(value) * np.maximum(np.abs(value) - taken, 0)
    np.testing.assert_allclose(got, np.where(value == -2, value, expected), atol=1e-6)


def test_what_is_to_be_pruned_fades_out_and_the_rest_stays():
    value = np.arange(1, 21, dtype="float32").reshape(4, 5)
    schedule = kprune.PolynomialDecay(0.0, 0.5, 0, 100, frequency=1)
    got = _after(value, GrowingRegularization(10.0), 0.1, schedule=schedule)
    # In step 1 of 100 a hundredth of the strength acts.
    expected = np.where(value <= 10, value * np.exp(-0.1 * 10 / 100), value)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "penalty", [Lasso(100.0), DensityPenalty(100.0, width=10.0, ramp=False)], ids=repr
)
@pytest.mark.parametrize("pattern", [None, kprune.Block((2, 1))], ids=str)
def test_no_weight_is_emptied_and_zeros_are_positive(penalty, pattern):
    value = -np.arange(1, 13, dtype="float32").reshape(4, 3)
    got = _after(value, penalty, 1.0, pattern)
    assert np.count_nonzero(got) == (1 if pattern is None else 2)
    assert not np.signbit(got[got == 0]).any()


def test_the_strength_rises_with_the_schedule_and_ends_with_it():
    rising = kprune.PolynomialDecay(0.0, 0.5, 10, 30, frequency=1)
    steps = (0, 10, 20, 30, 31)
    shares = {
        ramp: [float(Lasso(1.0, ramp).share(step, rising)) for step in steps]
        for ramp in (False, True)
    }
    assert shares == {False: [1, 1, 1, 1, 0], True: [0, 0, 0.5, 1, 0]}


def test_without_a_sparsity_it_goes_on():
    nothing = kprune.PolynomialDecay(0.0, 0.0, 10, 30, frequency=1)
    assert [float(Lasso(1.0).share(step, nothing)) for step in (0, 31)] == [1, 1]
    endless = kprune.ConstantSparsity(0.5, 0)
    assert [float(Lasso(1.0, True).share(step, endless)) for step in (0, 10**6)] == [1, 1]


@pytest.mark.parametrize(
    "penalty", [Lasso(0.5, True), DensityPenalty(0.5, 0.25, False), GrowingRegularization(2.0)]
)
def test_configurations_come_back(penalty):
    config = keras.saving.serialize_keras_object(penalty)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(penalty)
    assert again.get_config() == penalty.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda c=c, s=s: c(s), "`strength` must be a number above 0") for c, s in
          itertools.product((Lasso, DensityPenalty, GrowingRegularization), (0, -1.0, "1", True))),
        (lambda: DensityPenalty(1.0, width=0), "`width` must be a number above 0"),
        (lambda: kprune.Pruning(0.5, pattern=kprune.NM(2, 4), penalty=Lasso(1)), "single"),
        (lambda: kprune.Pruning(0.5, penalty=0.1), "must be a kprune penalty"),
        (lambda: kprune.Pruning(penalty=GrowingRegularization(1.0)), "needs a sparsity"),
        (lambda: Lasso(1.0, ramp=1), "`ramp` must be True or False"),
        (lambda: Penalty(1.0).factors(ops.ones(2), 1.0), "must define `factors`"),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        make()
