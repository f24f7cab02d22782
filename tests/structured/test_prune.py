"""Budgets, rounding, what stays as it was, and bad input."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.masking import outputs, random_inputs, randomize
from tests.helpers.topologies import TOPOLOGIES


@pytest.fixture(scope="module")
def resnet():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same", name="stem")(x)
    for width in (32, 48):
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(64, 3, padding="same")(y)
        x = layers.ReLU()(layers.Add()([layers.Conv2D(64, 1)(x), y]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="head")(x), name="resnet")
    randomize(model)
    return model


def _share(kind, small, model):
    if kind == "params":
        return small.count_params() / model.count_params()
    if kind == "flops":
        return kprune.flops(small).total / kprune.flops(model).total
    return _channels(small) / _channels(model)


def _channels(model):
    free = [group for group in kprune.channel_groups(model) if not group.frozen]
    return sum(group.channels * group.width for group in free)


@pytest.mark.fast_for(
    "allocation0-0.5-flops", "allocation0-0.8-params", "allocation1-0.25-channels"
)
@pytest.mark.parametrize("kind", ["flops", "params", "channels"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("allocation", [kprune.Global(), kprune.Uniform()])
def test_budgets_are_met(resnet, kind, share, allocation):
    small = kprune.prune_channels(resnet, **{kind: share}, round_to=1, allocation=allocation)
    assert abs(_share(kind, small, resnet) - share) <= 0.02 * share


def test_numbers_of_channels_are_rounded(resnet):
    small = kprune.prune_channels(resnet, flops=0.5, round_to=8)
    for layer in small.layers:
        if isinstance(layer, layers.Conv2D):
            assert layer.filters % 8 == 0
    assert abs(_share("flops", small, resnet) - 0.5) <= 0.02


@pytest.mark.slow
def test_no_group_goes_below_the_fewest(resnet):
    small = kprune.prune_channels(resnet, flops=0.6, round_to=4, min_channels=24)
    assert min(g.channels for g in kprune.channel_groups(small) if not g.frozen) >= 24
    small = kprune.prune_channels(resnet, flops=0.1, round_to=1)
    old = [g.channels for g in kprune.channel_groups(resnet) if not g.frozen]
    new = [g.channels for g in kprune.channel_groups(small) if not g.frozen]
    assert all(b >= a / 8 for a, b in zip(old, new))


def test_depth_to_space_is_rounded_in_all_its_positions():
    model = TOPOLOGIES["depth_to_space_inside"]()
    small = kprune.prune_channels(model, channels=0.72, round_to=2)
    assert small.count_params() < model.count_params()
    assert small.layers[1].filters % 4 == 0


def test_least_important_channels_go():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    value = np.ones((4, 8), "float32")
    value[:, [1, 4, 6]] = 0.01
    model.layers[0].kernel.assign(value)
    model.layers[1].kernel.assign(np.ones((8, 2)))
    small = kprune.prune_channels(model, channels=5 / 8, round_to=1)
    np.testing.assert_array_equal(small.layers[0].kernel, np.ones((4, 5)))


@pytest.mark.parametrize(
    "criterion",
    [
        kprune.Magnitude(),
        kprune.L2Norm(),
        kprune.Random(seed=1),
        kprune.structured.BatchNormScale(),
        kprune.Taylor(),
        kprune.pruning.Fisher(),
        kprune.structured.APoZ(),
        kprune.structured.MeanActivation(),
    ],
)
def test_every_criterion_prunes(resnet, criterion):
    random = np.random.default_rng(0)
    data = random.normal(size=(8, 16, 16, 3)).astype("float32"), random.integers(0, 10, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small = kprune.prune_channels(resnet, flops=0.5, criterion=criterion, data=data, loss=loss)
    assert abs(_share("flops", small, resnet) - 0.5) <= 0.02


def test_layers_say_who_loses_channels(resnet):
    small = kprune.prune_channels(resnet, flops=0.9, layers="stem")
    assert small.get_layer("stem").filters < 32
    small = kprune.prune_channels(resnet, flops=0.5, layers={"stem": None})
    assert small.get_layer("stem").filters == 32


@pytest.mark.fast_for("mlp", "siamese", "dictionaries")
@pytest.mark.parametrize("name", ["resnet", "mlp", "siamese", "dictionaries", "transformer"])
def test_original_is_as_it_was_and_the_result_saves(name, tmp_path):
    model = TOPOLOGIES[name]()
    randomize(model)
    inputs, config = random_inputs(model), model.get_config()
    before, weights = outputs(model, inputs), model.get_weights()
    small = kprune.prune_channels(model, params=0.6, round_to=1, min_channels=1)
    assert small.count_params() < 0.65 * model.count_params()
    assert model.get_config() == config
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(outputs(model, inputs), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(small) is type(model)
    assert small.name == model.name
    expected = outputs(small, inputs)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for a, b in zip(outputs(loaded, inputs), expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-6, 1e-6)


@pytest.mark.slow
def test_result_is_trained():
    model = TOPOLOGIES["mobilenet_v2"]()
    small = kprune.prune_channels(model, flops=0.61, round_to=1)
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    small.fit(random.normal(size=(8, 8, 8, 3)), random.integers(0, 3, 8), verbose=0)
    assert small.count_params() < model.count_params()


def test_layers_keep_their_settings():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(
                8, kernel_initializer="he_normal", kernel_regularizer="l2", trainable=False
            ),
            layers.Dense(3),
        ]
    )
    small = kprune.prune_channels(model, channels=0.5, round_to=1)
    old, new = model.layers[0].get_config(), small.layers[0].get_config()
    assert new == {**old, "units": 4}


class Doubled(keras.Model):
    def __init__(self, by_hand=False):
        super().__init__()
        self.first, self.second = layers.Dense(16, activation="relu"), layers.Dense(3)
        self.by_hand = by_hand

    def call(self, x):
        if self.by_hand and bool(ops.max(x) > 0):
            x = x + 1
        return self.second(self.first(x))


def test_subclassed_model_is_traced():
    model = Doubled()
    x = np.ones((2, 5), "float32")
    expected = ops.convert_to_numpy(model(x))
    small = kprune.prune_channels(model, params=0.5, round_to=1)
    assert small.count_params() < 0.55 * model.count_params()
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), expected)


def test_subclassed_model_that_cannot_be_traced():
    model = Doubled(by_hand=True)
    model(np.ones((2, 5), "float32"))
    with pytest.raises(ValueError, match="subclassed model whose `call` could not be recorded"):
        kprune.prune_channels(model, params=0.5)


def _bad(message, error=ValueError, **arguments):
    return pytest.param(arguments, error, message, id=message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        _bad("Give one of"),
        _bad("Give one of", flops=0.5, params=0.5),
        _bad("above 0 and below 1", flops=1.5),
        _bad("above 0 and below 1", flops="half"),
        _bad("above 0 and below 1", flops=True),
        _bad("out of reach", flops=0.001),
        _bad("out of reach", flops=0.5, layers="stem"),
        _bad("matches nothing", flops=0.5, layers="nowhere"),
        _bad("No channel of 'resnet' can be removed", flops=0.5, layers="head"),
        _bad("`layers` takes", TypeError, flops=0.5, layers=3),
        _bad("leave as they are", flops=0.5, layers={"stem": 0.5}),
        _bad("`round_to` must be", flops=0.5, round_to=0),
        _bad("`min_channels` must be", flops=0.5, min_channels=1.5),
        _bad("`criterion` must be", TypeError, flops=0.5, criterion="l1"),
        _bad("`allocation` must be", TypeError, flops=0.5, allocation=kprune.ErdosRenyiKernel()),
        _bad("pass `data=", flops=0.5, criterion=kprune.Taylor()),
        _bad("pass `loss=", flops=0.5, criterion=kprune.Taylor(), data=(np.ones(2), np.ones(2))),
        _bad(
            "cannot be trained on `data`",
            flops=0.5,
            criterion=kprune.Taylor(),
            data=(np.ones((4, 7, 7, 5), "float32"), np.ones(4)),
            loss="sparse_categorical_crossentropy",
        ),
    ],
)
def test_bad_input(resnet, arguments, error, message):
    weights = resnet.get_weights()
    with pytest.raises(error, match=message):
        kprune.prune_channels(resnet, **arguments)
    for a, b in zip(resnet.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not resnet.compiled


def test_no_keras_model():
    with pytest.raises(TypeError, match="Expected a Keras 3 model"):
        kprune.prune_channels("model", flops=0.5)
    with pytest.raises(ValueError, match="not built"):
        kprune.prune_channels(keras.Sequential([layers.Dense(3)]), flops=0.5)


def test_nothing_to_remove():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="small")
    with pytest.raises(ValueError, match=r"No channel of 'small' can be removed: .*an output"):
        kprune.prune_channels(model, flops=0.5)


def test_far_from_the_budget_is_said():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(16), layers.Dense(2)])
    with pytest.warns(UserWarning, match="round_to=8"):
        small = kprune.prune_channels(model, params=0.6, round_to=8)
    assert small.layers[0].units == 8
