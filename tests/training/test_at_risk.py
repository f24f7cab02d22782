"""The warning that a training lets zeros grow back: once, and only where it does."""

import warnings

import pytest

import kprune
from tests.helpers.training import compiled, data, expected_zeros, kernels, mlp, zeros


def fit(model, *callbacks, epochs=2):
    x, y = data(64)
    return model.fit(x, y, 16, epochs=epochs, verbose=0, callbacks=list(callbacks))


def pruned():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.8))
    return model


def at_risk(model, *callbacks):
    """How often a `fit` warned."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, *callbacks)
    return sum("lets the zeros" in str(one.message) for one in said)


@pytest.mark.slow
def test_it_is_said_once_until_the_model_is_pruned_again():
    model = pruned()
    assert at_risk(compiled(model)) == 1
    assert at_risk(model) == at_risk(compiled(model)) == 0
    assert sum(zeros(model).values()) < sum(expected_zeros(model, 0.8).values())
    assert at_risk(model, kprune.Pruning(0.8)) == 0
    assert at_risk(compiled(model)) == 1


@pytest.mark.fast_for("hold")
@pytest.mark.parametrize(
    "make", [lambda: kprune.WeightClustering(4), kprune.HoldZeros], ids=["clustering", "hold"]
)
def test_not_where_zeros_are_held_by_other_means(make):
    model = compiled(kprune.strip_pruning(pruned()))
    before = {name: value == 0 for name, value in kernels(model).items()}
    assert at_risk(model, make()) == 0
    for name, value in kernels(model).items():
        assert (value[before[name]] == 0).all()


@pytest.mark.slow
def test_not_for_wrapped_models_but_once_they_are_stripped():
    schedule = kprune.ConstantSparsity(0.8, 0)
    model = compiled(kprune.prune_low_magnitude(mlp(), schedule))
    fit(model, kprune.UpdatePruningStep())
    assert at_risk(compiled(model)) == at_risk(model, kprune.UpdatePruningStep()) == 0
    model = compiled(kprune.strip_pruning(model))
    assert zeros(model) == expected_zeros(model, 0.8)
    assert at_risk(model) == 1
