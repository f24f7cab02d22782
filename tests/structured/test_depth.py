"""Blocks that leave: exact, within the budget, the least important first; depth with channels."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured import find_blocks, remove_blocks
from kprune.structured.blocks import blocks_of
from kprune.structured.depth import without
from tests.helpers.masking import outputs, random_inputs, randomize
from tests.helpers.topologies import VOCABULARY


def resnet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for filters, strides in ((8, 1), (8, 1), (16, 2), (16, 1)):
        y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        straight = x if strides == 1 else layers.Conv2D(filters, 1, strides)(x)
        x = layers.ReLU()(layers.Add()([straight, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="resnet")


def mobilenet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1)(x)
    for _ in range(3):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(24, 1)(x)))
        y = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(y))
        x = x + layers.BatchNormalization()(layers.Conv2D(8, 1)(y))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def convnext():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 2, 2)(x)
    for _ in range(3):
        y = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
        y = layers.Dense(8)(layers.Dense(32, activation="gelu")(y))
        x = layers.Add()([x, layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(y)])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def transformer():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 16, mask_zero=True)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 4)(y, y)
        y = layers.Dense(32, activation="relu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(16)(y)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def nested():
    inner = keras.Input((8,))
    x = inner
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(8)(layers.Dense(12, activation="tanh")(x))])
    body = keras.Model(inner, layers.ReLU()(x), name="body")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(3)(body(layers.Dense(8)(layers.Dense(4)(inputs)))))


RESIDUAL = {
    "resnet": (resnet, 3),
    "mobilenet": (mobilenet, 3),
    "convnext": (convnext, 3),
    "transformer": (transformer, 4),
    "nested": (nested, 2),
}


def recurrent():
    names = ("first", "second", "third")
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            *(layers.LSTM(8, return_sequences=True, name=name) for name in names),
            layers.GRU(8, name="last"),
            layers.Dense(3, name="head"),
        ],
        name="recurrent",
    )


def _zeroed(model, block):
    """Give zeros to the last layer with weights of a block, so that its branch is zero."""
    (last,) = [n.operation for n in block.inside.values() if n.operation.name == block.layers[-1]]
    last.set_weights([np.zeros_like(w) for w in last.get_weights()])


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_model_computes_what_it_does_with_the_branch_at_zero(name):
    build, number = RESIDUAL[name]
    model = build()
    randomize(model)
    inputs, weights = random_inputs(model), model.get_weights()
    blocks = [block for block in blocks_of(model) if block.kind == "residual"]
    assert len(blocks) == number
    for chosen in ([0], [number - 1], list(range(number))):
        removed = [blocks[i] for i in chosen]
        small = without(model, removed)
        for block in removed:
            _zeroed(model, block)
        (expected,), (got,) = outputs(model, inputs), outputs(small, inputs)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        model.set_weights(weights)
        gone = sum(block.parameters for block in removed)
        assert small.count_params() == model.count_params() - gone
        assert np.abs(outputs(model, inputs)[0] - expected).max() > 1e-3


def test_a_sequential_model_stays_one():
    model = recurrent()
    x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype("float32")
    small = remove_blocks(model, keep=1, data=x)
    assert isinstance(small, keras.Sequential)
    kept = [layer.name for layer in small.layers]
    assert len(kept) == 4
    assert [kept[0], *kept[2:]] == ["first", "last", "head"]
    expected = x
    for name in kept:
        expected = model.get_layer(name)(expected)
    np.testing.assert_allclose(outputs(small, x)[0], ops.convert_to_numpy(expected), atol=1e-6)


def test_a_nested_model_leaves_as_a_whole():
    body = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(8)], name="body")
    inputs = keras.Input((4,))
    x = layers.Dense(8, name="stem")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(body(x)))
    small = remove_blocks(model, keep=0, criterion="random")
    assert small.count_params() == model.count_params() - body.count_params()
    assert "body" not in [layer.name for layer in small.layers]


@keras.saving.register_keras_serializable(package="test_depth")
class Encoder(keras.layers.Layer):
    """A Transformer block, as in the examples of Keras."""

    def __init__(self, heads, units, **options):
        super().__init__(**options)
        self.heads, self.units = heads, units

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(self.heads, shape[-1] // self.heads)
        self.attention.build(shape, shape)
        self.up, self.down = layers.Dense(self.units, "relu"), layers.Dense(shape[-1])
        self.up.build(shape)
        self.down.build((*shape[:-1], self.units))

    def call(self, inputs):
        inputs = inputs + self.attention(inputs, inputs)
        return inputs + self.down(self.up(inputs))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "units": self.units}


def test_layers_of_ones_own_leave_as_a_whole():
    x = inputs = keras.Input((5, 8))
    for i in range(3):
        x = Encoder(2, 16, name=f"encoder_{i}")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    randomize(model)
    assert [block.flops > 0 for block in find_blocks(model)] == [True] * 3
    x = random_inputs(model)
    small = remove_blocks(model, keep=2, data=x)
    (gone,) = {f"encoder_{i}" for i in range(3)} - {layer.name for layer in small.layers}
    expected = x
    for layer in model.layers[1:]:
        expected = expected if layer.name == gone else layer(expected)
    np.testing.assert_allclose(outputs(small, x)[0], ops.convert_to_numpy(expected), atol=1e-5)


def test_a_layer_that_is_called_again_stays():
    shared, inputs = layers.Dense(4, name="shared"), keras.Input((4,))
    x = shared(layers.Dense(4)(layers.Dense(6)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(shared(layers.ReLU()(x)))))
    randomize(model)
    x = random_inputs(model)
    first, second = (block for block in blocks_of(model) if block.name == "shared")
    assert first.flops == second.flops == 32
    once = without(model, [first])
    assert once.count_params() == model.count_params()
    assert np.abs(outputs(once, x)[0] - outputs(model, x)[0]).max() > 1e-3
    assert "shared" not in [layer.name for layer in without(model, [first, second]).layers]


@pytest.mark.parametrize("criterion", ["similarity", "loss"])
def test_the_block_that_does_the_least_leaves_first(criterion):
    model = transformer()
    randomize(model)
    blocks = blocks_of(model)
    for place in (1, 2):  # Of two that do next to nothing, and of which one does less.
        (last,) = [
            n.operation
            for n in blocks[place].inside.values()
            if n.operation.name == blocks[place].layers[-1]
        ]
        last.set_weights([w * 10.0 ** -(place + 1) for w in last.get_weights()])
    x = random_inputs(model, batch=40)
    options = {"data": (x, outputs(model, x)[0]), "criterion": criterion, "loss": "mse"}
    report = find_blocks(model, **options)
    scores = np.abs([block.score for block in report])
    assert set(np.argsort(scores)[:2]) == {1, 2}
    small = remove_blocks(model, keep=2, **options)
    gone = sum(blocks[place].parameters for place in (1, 2))
    assert small.count_params() == model.count_params() - gone
    assert np.abs(outputs(small, x)[0] - outputs(model, x)[0]).max() < 0.2


def test_similarity_is_that_of_input_and_output():
    model = transformer()
    randomize(model)
    x = random_inputs(model, batch=70)  # More than a batch.
    for block in find_blocks(model, data=x):
        pair = keras.Model(model.inputs, [block.source, block.output])
        a, b = (ops.convert_to_numpy(value) for value in pair(x))
        cosine = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert block.score == pytest.approx(1 - cosine.mean(), abs=1e-5)


def test_similarity_of_vectors_that_are_zero():
    keep = keras.initializers.Identity()
    inputs = keras.Input((4,))
    x = layers.Dense(4, use_bias=False, kernel_initializer=keep)(layers.Activation("relu")(inputs))
    branch = layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones", name="f")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add(name="end")([x, branch])))
    data = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], "float32")
    found = {block.name: block.score for block in find_blocks(model, data=data)}
    # From zero to one is a change; along itself is none.
    assert found["end"] == pytest.approx(0.5, abs=1e-6)
    model.get_layer("f").bias.assign(np.zeros(4))
    found = {block.name: block.score for block in find_blocks(model, data=data)}
    assert found["end"] == pytest.approx(0.0, abs=1e-6)


def test_loss_is_what_evaluate_says():
    model = resnet()
    randomize(model)
    x = random_inputs(model, batch=50)
    y = np.random.default_rng(1).normal(size=(50, 3)).astype("float32")
    model.compile(loss="mse", jit_compile=False)
    before = model.evaluate(x, y, verbose=0)
    for block in find_blocks(model, data=(x, y), criterion="loss"):
        small = without(model, [b for b in blocks_of(model) if b.name == block.name])
        small.compile(loss="mse", jit_compile=False)
        change = small.evaluate(x, y, verbose=0) - before
        assert block.score == pytest.approx(change, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("keep", [0, 1, 2, 0.34, 0.67])
def test_keep_is_met(keep):
    model = convnext()
    small = remove_blocks(model, keep=keep, criterion="random", seed=3)
    assert len(find_blocks(small)) == (keep if isinstance(keep, int) else round(3 * keep))


def test_random_is_seeded():
    model = transformer()

    def kept(seed):
        small = remove_blocks(model, keep=2, criterion="random", seed=seed)
        return [layer.name for layer in small.layers]

    assert kept(1) == kept(1)
    assert len({tuple(kept(seed)) for seed in range(8)}) > 1


def test_flops_are_met_and_a_miss_is_told():
    model = convnext()
    report = find_blocks(model)
    one = 1 - report.blocks[0].flops / report.flops
    small = remove_blocks(model, flops=one, data=random_inputs(model))
    assert kprune.flops(small).total == report.flops - report.blocks[0].flops
    with pytest.warns(UserWarning, match="0.9 was asked for and"):
        remove_blocks(model, flops=0.9, data=random_inputs(model))


def test_blocks_that_lie_inside_others_count_once():
    inputs = keras.Input((8,))
    x = layers.Dense(8)(layers.Dense(4)(inputs))
    y = layers.Dense(6, activation="relu")(x)
    y = layers.Add(name="inner")([y, layers.Dense(6, activation="relu")(y)])
    x = layers.Add(name="outer")([x, layers.Dense(8)(y)])
    model = keras.Model(inputs, layers.Dense(1)(x))
    names = {block.name for block in find_blocks(model)}
    assert names == {"inner", "outer"}
    for seed in range(4):
        small = remove_blocks(model, keep=1, criterion="random", seed=seed)
        assert "outer" in {block.name for block in find_blocks(small)}


def test_both_calls_of_a_shared_branch_can_leave():
    branch = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(8)])
    inputs = keras.Input((4,))
    x = start = layers.Dense(8)(inputs)
    for name in ("first", "again"):
        x = layers.Add(name=name)([x, branch(x)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    y, data = np.array([0, 1] * 4), random_inputs(model, batch=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    one = remove_blocks(model, keep=1, data=(data, y), criterion="loss", loss=loss)
    assert one.count_params() == model.count_params()
    without_any = remove_blocks(model, keep=0, data=(data, y), criterion="loss", loss=loss)
    expected = keras.Model(inputs, model.get_layer("head")(start))
    (got,), (wanted,) = outputs(without_any, data), outputs(expected, data)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_original_is_as_it_was_and_the_copy_can_be_saved_and_trained(tmp_path):
    model = resnet()
    model.compile("sgd", "mse")
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    x = random_inputs(model, batch=8)
    y = np.zeros((8, 3), "float32")
    small = remove_blocks(model, keep=1, data=(x, y), criterion="loss")
    for old, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, now)
    assert [layer.name for layer in model.layers] == names
    assert [len(layer._inbound_nodes) for layer in model.layers] == calls
    assert not small.compiled
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(outputs(loaded, x)[0], outputs(small, x)[0])
    small.compile("sgd", "mse")
    small.fit(x, y, verbose=0)
    for old, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, now)


class _Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.pairs = x, y

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return tuple(array[20 * i : 20 * i + 20] for array in self.pairs)


def test_data_may_come_in_any_form():
    model = mobilenet()
    randomize(model)
    x, y = random_inputs(model, batch=40), np.zeros((40, 3), "float32")

    def scores(data):
        found = find_blocks(model, data=data, criterion="loss", loss="mse")
        return [block.score for block in found]

    expected = scores((x, y))
    halves = [(x[:20], y[:20]), (x[20:], y[20:])]
    for data in (halves, iter(halves), _Batches(x, y), (x, y, np.ones(40, "float32"))):
        np.testing.assert_allclose(scores(data), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of `keep` and `flops`"),
        ({"keep": 1, "flops": 0.5}, "one of `keep` and `flops`"),
        ({"keep": 1}, "needs data"),
        ({"keep": 3, "criterion": "random"}, "3 blocks stay, at least 0.*keep=3"),
        ({"keep": -1, "criterion": "random"}, "keep=-1"),
        ({"keep": True, "criterion": "random"}, "keep=True"),
        ({"keep": 1.5, "criterion": "random"}, "keep=1.5"),
        ({"keep": 0.99, "criterion": "random"}, "keep=0.99"),
        ({"keep": "1", "criterion": "random"}, "keep='1'"),
        ({"flops": 1.0, "criterion": "random"}, "flops=1.0"),
        ({"flops": 0.01, "criterion": "random"}, "flops=0.01 is out of reach: with all 3 blocks"),
        ({"keep": 1, "criterion": "l1"}, "criterion.*'l1'"),
        ({"keep": 1, "data": np.zeros((0, 8, 8, 3))}, "no batch"),
        ({"keep": 1, "data": np.zeros((2, 8, 8, 4))}, "could not be run on `data`"),
        ({"keep": 1, "data": [(np.zeros((2, 8, 8, 3)),) * 2] * 2, "criterion": "loss"}, "no loss"),
        (
            {"keep": 1, "data": np.zeros((2, 8, 8, 3)), "criterion": "loss", "loss": "mse"},
            "needs targets",
        ),
        (
            {
                "keep": 1,
                "data": (np.zeros((2, 8, 8, 3)), np.zeros((2, 5))),
                "criterion": "loss",
                "loss": "mse",
            },
            "could not be computed on the targets",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        remove_blocks(convnext(), **arguments)


def test_a_model_without_blocks():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    with pytest.raises(ValueError, match="no block that can be bypassed"):
        remove_blocks(model, keep=0, criterion="random")


def _share(small, model, kind):
    if kind == "params":
        return small.count_params() / model.count_params()
    return kprune.flops(small, free_dim=64).total / kprune.flops(model, free_dim=64).total


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("build", [transformer, resnet])
def test_depth_and_channels_share_a_budget(build, kind):
    model = build()
    randomize(model)
    # Blocks that do nothing are what costs least.
    idle = [block for block in blocks_of(model) if block.kind == "residual"][:2]
    for block in idle:
        _zeroed(model, block)
    before, x = model.get_weights(), random_inputs(model, batch=40)
    data = x, outputs(model, x)[0]
    left = 1 - sum(getattr(b, {"flops": "flops", "params": "parameters"}[kind]) for b in idle) / (
        model.count_params() if kind == "params" else find_blocks(model).flops
    )
    share = 0.85 * left
    small = kprune.prune_channels(
        model, **{kind: share}, depth=True, data=data, loss="mse", round_to=1
    )
    assert abs(_share(small, model, kind) - share) <= 0.02 * share
    names = [{block.name for block in find_blocks(m)} for m in (model, small)]
    assert names[0] - names[1] <= {block.name for block in idle}
    narrow = kprune.prune_channels(model, **{kind: share}, round_to=1)
    wanted = data[1]
    error = [np.square(outputs(m, x)[0] - wanted).mean() for m in (small, narrow)]
    assert error[0] <= error[1]
    assert not small.compiled
    for old, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, now)


def test_depth_alone_where_it_is_enough():
    model = transformer()
    randomize(model)
    blocks = list(find_blocks(model))
    for block in blocks[:3]:
        _zeroed(model, block)
    share = 1 - sum(block.flops for block in blocks[:3]) / find_blocks(model).flops
    x = random_inputs(model, batch=40)
    data = x, outputs(model, x)[0]
    small = kprune.prune_channels(model, flops=share, depth=True, data=data, loss="mse")
    assert len(find_blocks(small)) == 1
    np.testing.assert_allclose(outputs(small, x)[0], data[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0.5}, "budget in `flops` or `params`"),
        ({"flops": 0.5, "layers": "dense"}, "no `layers`"),
        ({"flops": 0.5}, "needs a loss"),
        ({"flops": 0.5, "loss": "mse", "data": None}, "needs `data="),
        ({"flops": 0.001, "loss": "mse"}, "out of reach"),
    ],
)
def test_bad_input_with_depth(arguments, message):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(8), layers.Dense(2)])
    data = np.zeros((4, 4)), np.zeros((4, 2))
    with pytest.raises(ValueError, match=message):
        kprune.prune_channels(model, **{"data": data, "depth": True, **arguments})


def test_a_miss_with_depth_is_told_in_the_terms_of_the_whole_model():
    model, share = resnet(), 0.6
    data = random_inputs(model, batch=8), np.zeros((8, 3), "float32")
    with pytest.warns(UserWarning, match=r"flops=0\.6 was asked for") as warned:
        small = kprune.prune_channels(
            model, flops=share, depth=True, data=data, loss="mse", min_channels=16
        )
    (warning,) = [one for one in warned if one.category is UserWarning]
    assert warning.filename == __file__
    assert f"{_share(small, model, 'flops'):.3f} reached" in str(warning.message)


@pytest.mark.slow
def test_data_that_comes_once_is_enough_for_blocks_and_channels():
    model, (x, y) = transformer(), (np.zeros((40, 6), "int32"), np.zeros((40, 3), "float32"))
    once = ((x[i : i + 20], y[i : i + 20]) for i in (0, 20))
    small = kprune.prune_channels(
        model, flops=0.5, depth=True, data=once, loss="mse", criterion=kprune.Taylor()
    )
    assert _share(small, model, "flops") == pytest.approx(0.5, rel=0.05)
