"""What `Pruning` refuses, and what it says."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.training import compiled, data, expected_zeros, fit, kernels, mlp, zeros


def snapshot(model):
    return [ops.convert_to_numpy(v.value).copy() for v in model.weights]


def bad_weights(value):
    model = mlp()
    kernel = ops.convert_to_numpy(model.get_layer("second").kernel.value).copy()
    kernel[3, 4] = value
    model.get_layer("second").kernel.assign(kernel)
    return model


@pytest.mark.parametrize(
    ("make", "callback", "kwargs", "message"),
    [
        (mlp, lambda: kprune.Pruning(0.5, layers="missing"), {}, "'missing'"),
        (lambda: bad_weights(np.nan), lambda: kprune.Pruning(0.5), {}, "second.*NaN or infinite"),
        (lambda: bad_weights(np.inf), lambda: kprune.Pruning(0.5), {}, "second.*NaN or infinite"),
        (
            lambda: keras.Sequential([keras.Input((20,)), layers.LayerNormalization()]),
            lambda: kprune.Pruning(0.5),
            {},
            "no weight that can be pruned",
        ),
        (
            mlp,
            lambda: kprune.Pruning(
                0.5, layers={"head": {"pattern": kprune.NM(1, 4), "sparsity": 0.9}}
            ),
            {},
            r"at most 0\.75",
        ),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(make, callback, kwargs, message):
    model = compiled(make())
    before, optimizer = snapshot(model), model.optimizer
    with pytest.raises(ValueError, match=message):
        fit(model, callback(), **kwargs)
    assert model.optimizer is optimizer
    for old, new in zip(before, snapshot(model)):
        np.testing.assert_array_equal(old, new)


def test_nothing_prunable_in_a_model_built_by_fit():
    model = compiled(keras.Sequential([layers.LayerNormalization()]))
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="no weight that can be pruned"):
        fit(model, kprune.Pruning(0.5))
    assert model.optimizer is optimizer


def test_a_wrapped_model_prunes_by_itself():
    model = compiled(kprune.prune_low_magnitude(mlp()))
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        fit(model, kprune.Pruning(0.5))


def test_a_run_of_unknown_length():
    def batches():
        x, y = data(64)
        for i in range(0, 64, 16):
            yield x[i : i + 16], y[i : i + 16]

    model = compiled(mlp())
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(batches(), verbose=0, callbacks=[kprune.Pruning(0.5)])
    assert model.optimizer is optimizer
    schedule = kprune.ConstantSparsity(0.5, 2)
    model.fit(batches(), verbose=0, callbacks=[kprune.Pruning(schedule=schedule)])
    assert zeros(model) == expected_zeros(model, 0.5)


def test_training_that_diverges_is_reported():
    model = compiled(mlp(), keras.optimizers.SGD(float("inf")))
    with pytest.raises(ValueError, match="diverged"):
        fit(model, kprune.Pruning(0.5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"Pruning\(0\.9\)"),
        ({"sparsity": 1.0}, ValueError, "would leave none"),
        ({"sparsity": -0.1}, ValueError, r"in \[0, 1\)"),
        ({"sparsity": 90}, ValueError, r"percentage.*0\.9"),
        ({"sparsity": 0.5, "schedule": kprune.ConstantSparsity(0.5, 0)}, ValueError, "not both"),
        ({"schedule": 0.5}, TypeError, "PruningSchedule"),
        ({"sparsity": 0.5, "begin": 0.8, "end": 0.2}, ValueError, "come after"),
        ({"sparsity": 0.5, "begin": 1.5}, ValueError, "fraction of the run"),
        ({"sparsity": 0.5, "frequency": 0}, ValueError, "frequency"),
        ({"sparsity": 0.9, "pattern": kprune.NM(2, 4)}, ValueError, r"at most 0\.5"),
        ({"sparsity": 0.9, "criterion": "magnitude"}, TypeError, "criterion"),
        ({"sparsity": 0.9, "allocation": 3}, TypeError, "allocation"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        kprune.Pruning(**arguments)


def test_an_uncompiled_model():
    with pytest.raises(ValueError, match="compile"):
        fit(mlp(), kprune.Pruning(0.5))


def test_a_sparsity_and_a_schedule_for_the_same_layers():
    layers = {"second": {"sparsity": 0.5, "schedule": kprune.ConstantSparsity(0.7, 0)}}
    with pytest.raises(ValueError, match=r"not both.*0\.7"):
        fit(compiled(mlp()), kprune.Pruning(0.9, layers=layers))
    layers["second"]["sparsity"] = None
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9, layers=layers))
    assert zeros(model)["second/kernel"] == expected_zeros(model, 0.7)["second/kernel"]


def test_settings_for_layers_that_are_given_a_sparsity_alone():
    model, (x, y) = compiled(mlp()), data()
    pruning = kprune.Pruning(layers={"second": 0.5}, pattern=kprune.Block((3, 1)), end=0.5)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    found = kernels(model)
    blocks = (found["second/kernel"].reshape(11, 3, 17) == 0).all(axis=1)
    assert blocks.sum() == round(0.5 * blocks.size)
    assert (found["first/kernel"] != 0).all()
