import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.training import compiled, data, expected_zeros, kernels, mlp, zeros


def fit(model, *callbacks, epochs=4):
    x, y = data(64)
    return model.fit(x, y, 16, epochs=epochs, verbose=0, callbacks=list(callbacks))


def pruned(sparsity=0.8, **kwargs):
    model = compiled(mlp())
    fit(model, kprune.Pruning(sparsity, **kwargs))
    return model


@pytest.mark.slow
def test_layers_that_a_second_pruning_does_not_name_keep_their_zeros():
    model = compiled(mlp())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in ("first", "second", "head"):
            fit(model, kprune.Pruning(0.8, layers=name))
    assert zeros(model) == expected_zeros(model, 0.8)


def test_two_prunings_in_one_fit():
    model = compiled(mlp())
    x, y = data(64)
    both = [kprune.Pruning(0.8, layers="first"), kprune.Pruning(0.5, layers=["second", "head"])]
    model.fit(x, y, 16, epochs=4, verbose=0, callbacks=both)
    expected = expected_zeros(model, 0.5) | {"first/kernel": round(0.8 * 20 * 33)}
    assert zeros(model) == expected


@pytest.mark.slow
def test_part_of_a_group_is_pruned_further():
    model = pruned(0.5)
    before = kernels(model)["second/kernel"] == 0
    fit(model, kprune.Pruning(0.9, layers="first"))
    assert zeros(model)["first/kernel"] == round(0.9 * 20 * 33)
    np.testing.assert_array_equal(kernels(model)["second/kernel"] == 0, before)


@pytest.mark.slow
def test_zeros_stay_until_the_schedule_begins():
    model = pruned(0.8)
    before = {name: value == 0 for name, value in kernels(model).items()}
    fit(model, kprune.Pruning(0.9, begin=0.9, end=1.0), epochs=1)
    for name, value in kernels(model).items():
        assert (before[name] <= (value == 0)).all()


@pytest.mark.slow
def test_a_schedule_that_would_lose_zeros_says_so():
    model = pruned(0.8)
    with pytest.warns(UserWarning, match=r"0\.8\d* is zero, and the schedule begins at 0\.5"):
        fit(model, kprune.Pruning(0.5))


@pytest.mark.fast_for("True")
@pytest.mark.parametrize("strip", [False, True])
def test_a_training_that_would_lose_zeros_says_so(strip):
    model = pruned(0.8)
    if strip:
        model = kprune.strip_pruning(model)
    compiled(model)
    with pytest.warns(UserWarning, match=r"lets the zeros.*grow back.*HoldZeros"):
        fit(model, epochs=1)
    assert sum(zeros(model).values()) < sum(expected_zeros(model, 0.8).values())
    with pytest.warns(UserWarning, match=r"where 0\.8 was asked"):
        kprune.strip_pruning(model)


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, 1, 2])
def test_so_does_training_what_channels_were_removed_from_or_zeros_held_in(times):
    model = kprune.strip_pruning(pruned(0.8))
    for _ in range(times):
        model = kprune.prune_channels(model, 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(compiled(model), kprune.HoldZeros(), epochs=1)
    compiled(model)
    with pytest.warns(UserWarning, match=r"lets the zeros.*grow back") as said:
        fit(model, epochs=2)
    assert len([w for w in said if "grow back" in str(w.message)]) == 1


@pytest.mark.slow
def test_training_on_with_the_masks_says_nothing():
    model = pruned(0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model)
        model.optimizer.learning_rate = 0.1
        fit(model)
    assert zeros(model) == expected_zeros(model, 0.8)


@pytest.mark.fast_for("False")
@pytest.mark.parametrize("saved", [False, True])
def test_hold_zeros_after_a_new_compile(tmp_path, saved):
    model = kprune.strip_pruning(pruned(0.8))
    if saved:
        model.save(tmp_path / "m.keras")
        model = keras.models.load_model(tmp_path / "m.keras")
    before = {name: value == 0 for name, value in kernels(model).items()}
    compiled(model, keras.optimizers.SGD(0.1, momentum=0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(model, kprune.HoldZeros())
        model = kprune.strip_pruning(model)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value == 0, before[name])
    assert history.history["sparsity"][-1] == sum(zeros(model).values()) / sum(
        value.size for value in before.values()
    )
    assert isinstance(model.optimizer, keras.optimizers.SGD)


def test_a_model_that_is_built_in_its_first_step_has_no_zeros_to_hold():
    model = compiled(mlp(built=False))
    with pytest.warns(UserWarning, match="no weight .* has zeros to hold"):
        fit(model, kprune.HoldZeros(), epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_hold_zeros_beside_pruning(order):
    model = kprune.strip_pruning(pruned(0.8, layers="first"))
    compiled(model)
    fit(model, *[kprune.Pruning(0.5, layers="second"), kprune.HoldZeros()][::order])
    assert zeros(model) == {
        "first/kernel": round(0.8 * 20 * 33),
        "second/kernel": round(0.5 * 33 * 17),
        "head/kernel": 0,
    }


def test_what_is_zero_as_a_whole_is_free():
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(8), layers.Dense(2, kernel_initializer="zeros")]
    )
    compiled(model)
    with pytest.warns(UserWarning, match="no weight .* has zeros to hold"):
        fit(model, kprune.HoldZeros(), epochs=1)
    assert sum(zeros(model).values()) == 0


@pytest.mark.slow
def test_channels_stay_empty():
    keras.utils.set_random_seed(3)
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.5, pattern=kprune.Channels()))
    small = kprune.shrink(model).count_params()
    model = kprune.strip_pruning(model)
    compiled(model, keras.optimizers.Adam(0.01))
    fit(model, kprune.HoldZeros())
    assert kprune.shrink(model).count_params() == small


@pytest.mark.slow
def test_channels_stay_empty_when_other_layers_are_pruned():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.5, layers="first", pattern=kprune.Channels()))
    empty = (kernels(model)["first/kernel"] == 0).all(axis=0)
    fit(model, kprune.Pruning(0.8, layers="head"))
    assert empty.sum() == round(0.5 * 33)
    np.testing.assert_array_equal((kernels(model)["first/kernel"] == 0).all(axis=0), empty)
    bias = ops.convert_to_numpy(model.get_layer("first").bias.value)
    assert (bias[empty] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("again", [True, False], ids=["compiled again", "as it is"])
def test_old_optimizers_are_let_go(again):
    import gc
    import weakref

    model, made = compiled(mlp()), []
    for _ in range(3):
        if again:
            compiled(model)
        fit(model, kprune.Pruning(0.5), epochs=1)
        made += [weakref.ref(model.optimizer), weakref.ref(model.optimizer.base_optimizer)]
    gc.collect()
    alive = {id(one()) for one in made if one() is not None}
    assert alive == {id(model.optimizer), id(model.optimizer.base_optimizer)}


@pytest.mark.slow
def test_one_weight_of_a_kernel_stays(capsys):
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(8), layers.Dense(1, name="tiny"), layers.Dense(2)]
    )
    compiled(model)
    x, y = data(64)
    model.fit(x, y, 16, epochs=4, verbose=2, callbacks=[kprune.Pruning(0.95)])
    found = kernels(model)
    assert {name: int((value != 0).sum()) for name, value in found.items()} == {
        next(iter(found)): 8,
        "tiny/kernel": 1,
        list(found)[2]: 1,
    }
    assert "one weight is left" in capsys.readouterr().out
    for allocation in (kprune.Global(), kprune.ErdosRenyiKernel()):
        fit(model, kprune.Pruning(0.97, allocation=allocation))
        assert all((value != 0).any() for value in kernels(model).values())
