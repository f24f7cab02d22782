"""Channels in `fit`: exactly as many as asked for, and shrink takes them out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from tests.helpers.masking import outputs

_LOSS = {"from_logits": True}


def _data(n=256, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 8, 8, 2)).astype("float32")
    return x, (x[:, :4].mean((1, 2, 3)) > x[:, 4:].mean((1, 2, 3))).astype("int32")


def _resnet(**compiled):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(12, 3, padding="same", name="stem")(inputs)
    branch = layers.Conv2D(10, 3, padding="same", use_bias=False, name="inner")(x)
    branch = layers.ReLU()(layers.BatchNormalization()(branch))
    x = layers.ReLU()(x + layers.Conv2D(12, 3, padding="same", name="outer")(branch))
    x = layers.Dense(7, activation="sigmoid", name="hidden")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(**_LOSS)
    model.compile("adam", loss, **compiled)
    return model


def _sizes(model):
    return {
        layer.name: getattr(layer, "filters", None) or layer.units
        for layer in model.layers
        if layer.weights and hasattr(layer, "kernel")
    }


def _fit(model, callback, epochs=2):
    x, y = _data()
    return model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[callback]).history


def _check_same(model, small):
    x, _ = _data(32, seed=1)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-5, 1e-5)


def _masks(model):
    return [ops.convert_to_numpy(mask) for mask in model.optimizer.masks().values()]


@pytest.mark.fast_for("0.5-None")
@pytest.mark.parametrize(
    ("sparsity", "criterion"),
    [(0.5, None), (0.3, kprune.Taylor()), (0.75, kprune.Random(1)), (0.5, kprune.L2Norm())],
)
def test_every_group_loses_what_was_asked(sparsity, criterion):
    model = _resnet()
    history = _fit(model, kprune.Pruning(sparsity, pattern=kprune.Channels(), criterion=criterion))
    kept = {
        name: n - round(sparsity * n) for name, n in (("stem", 12), ("inner", 10), ("hidden", 7))
    }
    assert history["sparsity"][-1] == pytest.approx(1 - sum(kept.values()) / 29)
    small = kprune.shrink(model)
    assert _sizes(small) == kept | {"outer": kept["stem"], "head": 2}
    _check_same(model, small)
    assert not any("kprune" in type(layer).__module__ for layer in small.layers)


@pytest.mark.slow
def test_channels_are_rounded_and_some_stay():
    model = _resnet()
    pattern = kprune.Channels(round_to=4, min_channels=8)
    _fit(model, kprune.Pruning(0.9, pattern=pattern))
    assert _sizes(kprune.shrink(model)) == {
        "stem": 8, "inner": 8, "outer": 8, "hidden": 7, "head": 2,
    }  # fmt: skip


@pytest.mark.slow
def test_all_channels_ranked_together():
    model = _resnet()
    callback = kprune.Pruning(0.5, pattern=kprune.Channels(), allocation=kprune.Global())
    history = _fit(model, callback)
    small = kprune.shrink(model)
    sizes = _sizes(small)
    assert sizes["stem"] + sizes["inner"] + sizes["hidden"] == pytest.approx(29 / 2, abs=1)
    assert history["sparsity"][-1] == pytest.approx(0.5, abs=0.04)
    _check_same(model, small)


def test_only_the_layers_that_are_named():
    model = _resnet()
    _fit(model, kprune.Pruning(0.5, pattern=kprune.Channels(), layers=["inner"]))
    assert _sizes(kprune.shrink(model)) == {
        "stem": 12, "inner": 5, "outer": 12, "hidden": 7, "head": 2,
    }  # fmt: skip


@pytest.mark.slow
def test_beside_another_pattern():
    model = _resnet()
    layers_ = {"hidden": 0.8, "head": None, "*": {"sparsity": 0.5, "pattern": kprune.Channels()}}
    _fit(model, kprune.Pruning(layers=layers_))
    kernel = ops.convert_to_numpy(model.get_layer("hidden").kernel)
    assert np.sum(kernel == 0) >= round(0.8 * kernel.size)
    small = kprune.shrink(model)
    assert (_sizes(small)["stem"], _sizes(small)["inner"]) == (6, 5)
    _check_same(model, small)


@pytest.mark.slow
def test_masks_stay_in_later_training_and_are_taken_up_again(tmp_path):
    model = _resnet()
    schedule = kprune.ConstantSparsity(0.5, begin_step=0, frequency=100)
    _fit(model, kprune.Pruning(schedule=schedule, pattern=kprune.Channels()), epochs=1)
    first = _masks(model)
    model.save(tmp_path / "mid.keras")
    again = keras.models.load_model(tmp_path / "mid.keras")
    _fit(again, kprune.Pruning(schedule=schedule, pattern=kprune.Channels()), epochs=1)
    for a, b in zip(first, _masks(again), strict=True):
        np.testing.assert_array_equal(a, b)
    _check_same(again, kprune.shrink(again))


def test_frozen_layers_and_statistics_are_left():
    model = _resnet()
    model.get_layer("outer").trainable = False
    before = [np.array(w) for w in model.get_layer("outer").get_weights()]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(**_LOSS))
    _fit(model, kprune.Pruning(0.5, pattern=kprune.Channels(), layers=["inner"]), epochs=1)
    for a, b in zip(model.get_layer("outer").get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert _sizes(kprune.shrink(model))["inner"] == 5


def test_a_loop_of_ones_own():
    model = _resnet()
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.1),
        kprune.ConstantSparsity(0.5, begin_step=0),
        pattern=kprune.Channels(),
        model=model,
    )
    optimizer.build(model.trainable_variables)
    optimizer.apply([ops.ones(v.shape) for v in model.trainable_variables])
    groups = [g for g in find_groups(ChannelGraph(model)) if not g.frozen]
    assert _sizes(kprune.shrink(model))["stem"] == 6
    assert len(groups) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kprune.Channels(round_to=0), "`round_to`"),
        (lambda: kprune.Channels(min_channels=True), "`min_channels`"),
        (
            lambda: kprune.PruningOptimizer(
                keras.optimizers.SGD(), kprune.ConstantSparsity(0.5, 0), pattern=kprune.Channels()
            ).build([keras.Variable(np.ones((3, 3), "float32"), name="kernel")]),
            "how the model's layers are connected",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nothing_to_prune_leaves_the_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile("adam", "mse")
    before = model.get_weights()
    callback = kprune.Pruning(0.5, pattern=kprune.Channels())
    with pytest.raises(ValueError, match="No channel of"):
        model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0, callbacks=[callback])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    erk = kprune.Pruning(0.5, pattern=kprune.Channels(), allocation=kprune.ErdosRenyiKernel())
    with pytest.raises(ValueError, match=r"Uniform\(\) or Global\(\)"):
        _fit(_resnet(), erk)


def test_config_round_trip():
    pattern = kprune.Channels(round_to=8, min_channels=2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pattern))
    assert again == pattern


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stem", "outer"])
def test_any_maker_names_the_channels_of_a_sum(name):
    model = _resnet()
    _fit(model, kprune.Pruning(0.5, pattern=kprune.Channels(), layers=name), epochs=1)
    assert _sizes(kprune.shrink(model)) == {
        "stem": 6, "inner": 10, "outer": 6, "hidden": 7, "head": 2,
    }  # fmt: skip
    small = kprune.prune_channels(model, flops=0.85, round_to=1, layers=name)
    assert small.get_layer("stem").filters == small.get_layer("outer").filters < 12


@pytest.mark.slow
def test_channels_belong_to_the_first_setting_that_names_them():
    model = _resnet()
    shares = {"outer": 0.25, "stem": 0.5, "inner": 0.5}
    layers_ = {
        name: {"sparsity": share, "pattern": kprune.Channels()} for name, share in shares.items()
    }
    history = _fit(model, kprune.Pruning(layers=layers_), epochs=1)
    assert _sizes(kprune.shrink(model)) == {
        "stem": 9, "inner": 5, "outer": 9, "hidden": 7, "head": 2,
    }  # fmt: skip
    assert history["sparsity"][-1] == pytest.approx(8 / 22)


def test_layers_that_leave_nothing_are_named():
    callback = kprune.Pruning(0.5, pattern=kprune.Channels(), layers="head")
    with pytest.raises(ValueError, match=r"that `layers` and .* leave: head: an output"):
        _fit(_resnet(), callback)


@pytest.mark.slow
def test_sparsity_counts_what_can_be_masked():
    model = _resnet()
    model.get_layer("outer").trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(**_LOSS))
    callback = kprune.Pruning(0.5, pattern=kprune.Channels(), layers=["stem"])
    history = _fit(model, callback, epochs=1)
    assert history["sparsity"][-1] == pytest.approx(0.5)
    masks = _masks(model)
    history = _fit(
        model,
        kprune.Pruning(
            schedule=kprune.ConstantSparsity(0.5, 0), pattern=kprune.Channels(), layers=["stem"]
        ),
        epochs=1,
    )
    for a, b in zip(masks, _masks(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allocation", "held"),
    [
        (kprune.Uniform(), r"first \(1 channel\), second \(1 channel\)"),
        (kprune.Global(), "all groups together"),
    ],
)
def test_one_channel_of_every_group_stays_and_that_is_said(allocation, held):
    stack = [layers.Dense(8, activation="relu", name="first"), layers.Dense(4, name="second")]
    model = keras.Sequential([keras.Input((6,)), *stack, layers.Dense(40), layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    pruning = kprune.Pruning(0.98, pattern=kprune.Channels(), allocation=allocation)
    with pytest.warns(UserWarning, match=held):
        model.fit(x, x[:, :2], batch_size=8, epochs=3, verbose=0, callbacks=[pruning])
    small = kprune.shrink(model)
    assert [layer.units for layer in small.layers] == [1, 1, 1, 2]
