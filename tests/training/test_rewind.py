"""Rewinding: the values of an earlier time, and the zeros of now."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.training import compiled, data, expected_zeros, mlp, zeros


def _pruned(pattern=None):
    """A stripped model with zeros, and what it was before."""
    values, early = _trained(pattern)
    model = mlp()
    model.set_weights(values)
    return model, [value.copy() for value in early]


@functools.cache
def _trained(pattern):
    keras.utils.set_random_seed(0)
    model = compiled(mlp())
    x, y = data()
    model.fit(x, y, epochs=1, verbose=0)
    early = model.get_weights()
    model.fit(x, y, epochs=4, verbose=0, callbacks=[kprune.Pruning(0.75, pattern=pattern)])
    return kprune.strip_pruning(model).get_weights(), early


def test_what_is_left_has_the_earlier_values_and_trains_on():
    model, early = _pruned()
    before = model.get_weights()
    assert kprune.training.rewind(model, early) is None
    for value, old, now in zip(model.get_weights(), early, before):
        expected = np.where(now == 0, 0, old) if old.ndim > 1 else old
        np.testing.assert_array_equal(value, expected)
    compiled(model)
    model.fit(*data(), epochs=2, verbose=0, callbacks=[kprune.HoldZeros()])
    assert zeros(model) == expected_zeros(model, 0.75)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_do_as_well(tmp_path, suffix):
    model, early = _pruned()
    saved = mlp()
    saved.set_weights(early)
    path = tmp_path / f"early{suffix}"
    (saved.save_weights if suffix == ".weights.h5" else saved.save)(path)
    masks = [value != 0 for value in model.get_weights()]
    kprune.training.rewind(model, str(path))
    for value, old, mask in zip(model.get_weights(), early, masks):
        np.testing.assert_array_equal(value, old * mask if old.ndim > 1 else old)


def test_channels_that_are_zero_stay_zero_with_their_biases():
    model, early = _pruned(pattern=kprune.Channels())
    gone = (model.get_weights()[0] == 0).all(axis=0)
    assert gone.any()
    early = [value + 1 if value.ndim == 1 else value for value in early]
    kprune.training.rewind(model, early)
    kernel, bias = model.get_weights()[:2]
    assert (kernel[:, gone] == 0).all()
    assert (bias[gone] == 0).all()
    assert (bias[~gone] != 0).all()


def test_a_weight_that_is_zero_as_a_whole_goes_back():
    model, early = _pruned()
    head = model.get_layer("head")
    head.bias.assign(np.zeros(2, "float32"))
    early[-1] = np.array([1.0, 2.0], "float32")
    kprune.training.rewind(model, early)
    np.testing.assert_array_equal(model.get_weights()[-1], [1.0, 2.0])


def _other():
    return keras.Sequential([keras.Input((20,)), layers.Dense(3)]).get_weights()


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        (lambda early: early[:-1], ValueError, "not those of"),
        (lambda early: _other(), ValueError, "not those of"),
        (lambda early: [np.full_like(v, np.nan) for v in early], ValueError, "not all finite"),
        (lambda early: "nowhere.weights.h5", OSError, "no file"),
    ],
)
def test_values_that_are_not_the_models(to, error, message):
    model, early = _pruned()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        kprune.training.rewind(model, to(early))
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


def test_a_file_of_another_model_leaves_it_as_it_was(tmp_path):
    model, _ = _pruned()
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((20,)), layers.Dense(3)]).save_weights(path)
    before = model.get_weights()
    with pytest.raises(ValueError):
        kprune.training.rewind(model, path)
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


def test_models_that_have_nothing_to_keep_or_still_prune():
    dense = compiled(mlp())
    with pytest.raises(ValueError, match="has zeros to keep"):
        kprune.training.rewind(dense, dense.get_weights())
    dense.fit(*data(), epochs=1, verbose=0, callbacks=[kprune.Pruning(0.5)])
    with pytest.raises(ValueError, match="strip_pruning"):
        kprune.training.rewind(dense, dense.get_weights())
