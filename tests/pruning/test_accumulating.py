"""Scores from what was accumulated, in numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import kprune
from kprune.pruning import AccumulatingCriterion, Fisher, Movement, Sensitivity

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def _numpy(tensor):
    return ops.convert_to_numpy(tensor)


def _accumulated(criterion, weight, gradients):
    found = ops.zeros(weight.shape)
    for gradient in gradients:
        found = criterion.accumulate(found, ops.convert_to_tensor(weight), ops.array(gradient))
    return found


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (Sensitivity(), lambda w, g: np.abs(g).sum(0) / np.abs(g).sum()),
        (Fisher(decay=0.5), lambda w, g: 0.5 * w**2 * (g[0] ** 2 * 0.25 + g[1] ** 2 * 0.5)),
    ],
    ids=["Sensitivity", "Fisher"],
)
def test_scores_are_those_of_the_formula(criterion, expected):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 5)).astype("float32")
    gradients = rng.normal(size=(2, 4, 5)).astype("float32")
    scores = criterion(weight, None, _accumulated(criterion, weight, gradients))
    np.testing.assert_allclose(_numpy(scores), expected(weight, gradients), 1e-5)


@given(sums=st.lists(FLOATS, min_size=8, max_size=8))
def test_movement_keeps_the_order_of_its_sum(sums):
    sums = np.array(sums, "float32")
    scores = _numpy(Movement()(ops.ones(8), None, ops.array(sums)))
    assert (scores > 0).all()
    assert np.isfinite(scores).all()
    order = np.argsort(sums, kind="stable")
    assert (np.diff(scores[order]) >= 0).all()
    apart = np.diff(sums[order]) > 1e-4 * np.abs(sums[order][1:]) + 1e-16
    assert (np.diff(scores[order])[apart] > 0).all()


@pytest.mark.parametrize("kind", [Sensitivity, Movement, Fisher])
def test_what_is_zero_scores_zero(kind):
    scores = _numpy(kind()(ops.array([0.0, 1.0]), ops.array([5.0, -5.0])))
    assert scores[0] == 0
    assert scores[1] > 0


def test_bad_arguments():
    for bad in (-0.1, 1, 2.0):
        with pytest.raises(ValueError, match="decay"):
            Fisher(decay=bad)
    with pytest.raises(NotImplementedError, match="accumulate"):
        AccumulatingCriterion()(ops.ones(2), ops.ones(2))


def test_of_channels():
    """`prune_channels` sums what each batch of its data says."""
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(12), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 6)).astype("float32"), rng.normal(size=(64, 3)).astype("float32")
    for criterion in (Sensitivity(), Movement(), Fisher()):
        small = kprune.prune_channels(
            model, channels=0.5, data=data, criterion=criterion, round_to=1
        )
        assert small.layers[0].units == 6
