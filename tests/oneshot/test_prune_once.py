"""A trained model, pruned at once: exact zeros, better values, nothing half done."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.topologies import TOPOLOGIES

DATA = Path(os.environ.get("KPRUNE_DATA_DIR", Path(__file__).parents[2].parent / "shared" / "data"))


def _images(n=64):
    """Images with structure, so that inputs are correlated."""
    x = np.random.default_rng(0).normal(size=(n, 3, 3, 2))
    return np.kron(x, np.ones((1, 4, 4, 1))).astype("float32") + 0.1


def _cnn():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, padding="same", name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="pointwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def _kernels(model):
    return {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


@pytest.mark.fast_for("weights-obs", "blocks-wanda", "n of m-obs")
@pytest.mark.parametrize("method", ["obs", "wanda", "magnitude"])
@pytest.mark.parametrize(
    "pattern",
    [kprune.Unstructured(), kprune.Block((2, 1)), kprune.NM(1, 2)],
    ids=["weights", "blocks", "n of m"],
)
def test_zeros_are_those_of_pruning(method, pattern):
    model, other = _cnn(), _cnn()
    got, report = kprune.prune_once(
        model, 0.5, _images(), method, pattern=pattern, layers={"depthwise": 0.25, "head": None}
    )
    assert got is model
    _, plain = kprune.prune_once(
        other,
        0.5,
        _images(),
        "magnitude",
        pattern=pattern,
        layers={"depthwise": 0.25, "head": None},
    )
    assert {one.name: one.sparsity for one in report.weights} == {
        one.name: one.sparsity for one in plain.weights
    }
    assert {one.method for one in report.weights} == {method}
    for name, kernel in _kernels(model).items():
        if isinstance(pattern, kprune.NM) and name == "first":
            pairs = np.moveaxis(kernel, -1, 0).reshape(-1, 2)
            assert (np.count_nonzero(pairs, axis=1) <= 1).all()
    assert np.all(_kernels(model)["head"] != 0)


def test_layers_of_many_inputs_are_taken_in_blocks(monkeypatch):
    """As if more than 7 inputs were many: the zeros are as many, and it is better all the same."""
    monkeypatch.setattr(kprune.oneshot.moments, "_LARGEST", 7)
    x, errors = _images(), {}
    expected = _cnn().predict(x, verbose=0)
    for method in ("obs", "magnitude"):
        model, report = kprune.prune_once(_cnn(), 0.6, x, method, recalibrate=False)
        assert all(abs(one.sparsity - 0.6) < 0.02 for one in report.weights)
        errors[method] = np.abs(model.predict(x, verbose=0) - expected).mean()
    assert errors["obs"] < errors["magnitude"]


@pytest.mark.parametrize("allocation", [kprune.Global(), kprune.ErdosRenyiKernel()], ids=str)
def test_a_sparsity_of_all_layers(allocation):
    model, _ = kprune.prune_once(_cnn(), 0.6, _images(), allocation=allocation)
    kernels = _kernels(model).values()
    zeros, size = sum((k == 0).sum() for k in kernels), sum(k.size for k in kernels)
    assert abs(zeros - 0.6 * size) <= len(kernels)


def test_what_stays_is_updated():
    """Layer by layer the outputs change less than by either control."""
    x, changes = _images(), {}
    expected = _cnn().predict(x, verbose=0)
    for method in ("obs", "wanda", "magnitude"):
        model, report = kprune.prune_once(_cnn(), 0.6, x, method, recalibrate=False)
        changes[method] = np.abs(model.predict(x, verbose=0) - expected).mean()
        assert [one.name.split("/")[0] for one in report.weights] == [
            "first", "depthwise", "pointwise", "head",
        ]  # fmt: skip
        assert all(0 < one.error < 1.5 for one in report.weights)
    assert changes["obs"] < 0.7 * min(changes["wanda"], changes["magnitude"])


def _several(shared=False):
    """A model of two inputs that calls a nested one, once or twice."""
    keras.utils.set_random_seed(0)
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = inner = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="inside")(x)
    tower = keras.Model(inner, x, name="tower")
    y = layers.Concatenate()([tower(a), tower(b) if shared else layers.Dense(8, name="other")(b)])
    return keras.Model({"a": a, "b": b}, layers.Dense(3, name="head")(y))


@pytest.mark.parametrize("shared", [False, True])
def test_inputs_by_name_and_towers(shared):
    random = np.random.default_rng(0)
    data = {name: random.normal(size=(50, 6)).astype("float32") for name in "ab"}
    _, report = kprune.prune_once(_several(shared), 0.5, data)
    assert {one.method for one in report.weights} == {"obs"}
    assert all(one.sparsity == 0.5 for one in report.weights)
    assert len(report.weights) == (2 if shared else 3)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.unused = layers.Dense(8, activation="relu"), layers.Dense(4)
        self.last = layers.Dense(3)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 8))
        self.unused.build((None, 8))

    def call(self, x):
        return self.last(self.first(x))


def test_a_subclassed_model():
    """Layers that its call does not use go by magnitude."""
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    model(x)
    _, report = kprune.prune_once(model, 0.5, x)
    assert [one.method for one in report.weights] == ["obs", "obs", "magnitude"]
    assert all(one.sparsity == 0.5 for one in report.weights)
    assert "magnitude" in str(report)
    assert report.to_dict()["weights"][2]["error"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["keras_transformer", "vision_transformer", "bidirectional_gru_stack", "lstm_stack",
     "language_model_of_tied_words", "text_conv1d"],
)  # fmt: skip
def test_models_of_all_kinds(name):
    model = TOPOLOGIES[name]()
    random = np.random.default_rng(0)
    shapes = [(40, *tensor.shape[1:]) for tensor in model.inputs]
    (x,) = (
        random.integers(0, 20, shape) if "int" in tensor.dtype
        else random.normal(size=shape).astype("float32")
        for shape, tensor in zip(shapes, model.inputs)
    )  # fmt: skip
    _, report = kprune.prune_once(model, 0.5, x)
    by_hand = {one.name for one in report.weights if one.method == "magnitude"}
    assert all("embeddings" in path for path in by_hand)
    assert any(one.method == "obs" for one in report.weights)
    assert all(abs(one.sparsity - 0.5) < 0.05 for one in report.weights)


def test_whole_channels():
    """The layers that take them make up for them; `shrink` takes them out."""
    x = _images()
    expected = _cnn().predict(x, verbose=0)
    errors = {}
    for method in ("obs", "magnitude"):
        model, report = kprune.prune_once(
            _cnn(), 0.5, x, method, pattern=kprune.Channels(), recalibrate=False
        )
        for one in report.weights:
            (value,) = (v for v in model.weights if v.path == one.name)
            share = np.mean(keras.ops.convert_to_numpy(value) == 0)
            assert one.sparsity == pytest.approx(share)
        assert {one.method for one in report.weights} == {method}
        small = kprune.shrink(model)
        assert small.get_layer("first").filters == 4
        got = small.predict(x, verbose=0)
        np.testing.assert_allclose(got, model.predict(x, verbose=0), 1e-4, 1e-4)
        errors[method] = np.abs(got - expected).mean()
    assert errors["obs"] < 0.8 * errors["magnitude"]


@pytest.mark.parametrize("method", ["obs", "wanda"])
def test_channels_that_others_replace_go(method):
    """Large as they are: the outputs stay. By the size of inputs alone they would stay instead."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    x = layers.Add()([x, layers.Conv2D(8, 1, use_bias=False, name="second")(x)])
    flat = layers.Dense(3, name="flat")(layers.Flatten()(x))
    pooled = layers.Dense(3, name="pooled")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, [flat, pooled])
    for name in ("first", "second"):
        layer = model.get_layer(name)
        kernel, *bias = layer.get_weights()
        kernel[..., 4:] = 3 * kernel[..., :4]
        layer.set_weights([kernel, *bias])
    kernel = model.get_layer("second").get_weights()[0]
    model.get_layer("second").set_weights([np.abs(kernel)])
    data = _images(128)
    expected = [y.std() for y in model.predict(data, verbose=0)]
    before = model.predict(data, verbose=0)
    kprune.prune_once(model, 0.5, data, method, pattern=kprune.Channels())
    zeros = [
        np.abs(model.get_layer(name).get_weights()[0]).sum((0, 1, 2)) == 0
        for name in ("first", "second")
    ]
    assert zeros[0].sum() == 4
    assert (zeros[0] == zeros[1]).all()
    after = model.predict(data, verbose=0)
    change = max(np.abs(a - b).mean() / std for a, b, std in zip(after, before, expected))
    if method == "obs":
        assert not (zeros[0][:4] & zeros[0][4:]).any()
        assert change < 0.05
    else:
        assert zeros[0][:4].all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["densenet", "grouped_convolutions", "keras_transformer", "lstm_stack", "mobilenet_v2",
     "resnet", "rms_transformer", "unet", "vgg", "vision_transformer"],
)  # fmt: skip
def test_channels_of_all_kinds(name, monkeypatch):
    """As many of each group go as by magnitude, and no more is lost."""
    random = np.random.default_rng(0)
    shapes = [(64, *tensor.shape[1:]) for tensor in TOPOLOGIES[name]().inputs]
    (x,) = (random.normal(size=shape).astype("float32") for shape in shapes)
    sizes, errors = [], []
    for method in ("obs", "magnitude"):
        keras.utils.set_random_seed(0)
        model = TOPOLOGIES[name]()
        before = model.predict(x, verbose=0)
        kprune.prune_once(model, 0.5, x, method, pattern=kprune.Channels(), recalibrate=False)
        small = kprune.shrink(model)
        got = small.predict(x, verbose=0)
        np.testing.assert_allclose(got, model.predict(x, verbose=0), 1e-3, 1e-4)
        sizes.append(small.count_params())
        errors.append(np.abs(got - before).mean())
    assert sizes[0] == sizes[1]
    assert errors[0] < errors[1]


def test_what_is_damped_is_said():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), layers.Dense(8, name="a"), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(100, 20)).astype("float32")
    weights = model.get_weights()
    _, report = kprune.prune_once(model, 0.5, x)
    assert [one.singular for one in report.weights] == [False, False]
    assert "damping" not in str(report)
    model.set_weights(weights)
    _, report = kprune.prune_once(model, 0.5, x[:12])
    assert [one.singular for one in report.weights] == [True, False]
    assert "inputs of 1 of 2 weights" in " ".join(str(report).split())
    assert "a/kernel" in str(report)


def test_batch_normalizations_are_measured_again():
    x = _images()
    model, _ = kprune.prune_once(_cnn(), 0.6, x)
    norm = model.get_layer("norm")
    first = keras.Model(model.inputs, norm.input)
    y = first.predict(x, verbose=0)
    np.testing.assert_allclose(norm.moving_mean, y.mean((0, 1, 2)), 1e-3, 1e-3)
    np.testing.assert_allclose(norm.moving_variance, y.var((0, 1, 2)), 1e-3, 1e-3)


def test_metrics_before_and_after():
    model = _cnn()
    model.compile("sgd", "mse", metrics=["mae"])
    x = _images()
    batches = [(x[:32], np.zeros((32, 4))), (x[32:], np.zeros((32, 4)))]
    _, report = kprune.prune_once(model, 0.9, batches)
    assert report.before.keys() == report.after.keys() == {"loss", "mae"}
    assert report.before != report.after
    assert "mae" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": _images()[..., :1]}, r"does not fit.*a batch of shape"),
        ({"data": _images() * np.nan}, "NaN or infinite"),
        ({"data": _images()[:0]}, "no example"),
        ({"data": []}, "no example"),
        ({"method": "sparsegpt"}, "one of obs, wanda, magnitude"),
        ({"sparsity": 1.5}, "1.5"),
        ({"layers": "none"}, "matches nothing"),
        ({"pattern": kprune.NM(1, 2), "sparsity": 0.7}, "at most 0.5"),
    ],
)
def test_bad_input_changes_nothing(change, message):
    model = _cnn()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kprune.prune_once(model, **{"sparsity": 0.5, "data": _images(), **change})
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_what_fails_midway_changes_nothing(monkeypatch):
    model = _cnn()
    before = model.get_weights()
    monkeypatch.setattr(kprune.oneshot.reconstruct.Problem, "error", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kprune.prune_once(model, 0.5, _images())
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_a_digit_classifier_without_training():
    if not DATA.is_dir():
        pytest.skip("no data")
    data = np.load(DATA / "mnist.npz", allow_pickle=False)
    x, x_test = (
        data[name].reshape(-1, 784).astype("float32") / 255 for name in ("x_train", "x_test")
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((784,)), layers.Dense(100, "relu"), layers.Dense(50, "relu"), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, data["y_train"], batch_size=256, epochs=3, verbose=0)
    weights, errors = model.get_weights(), {}
    for method in ("obs", "magnitude"):
        model.set_weights(weights)
        kprune.prune_once(model, 0.8, x[:512], method)
        errors[method] = 1 - model.evaluate(x_test, data["y_test"], verbose=0)[1]
    model.set_weights(weights)
    errors["dense"] = 1 - model.evaluate(x_test, data["y_test"], verbose=0)[1]
    assert errors["obs"] - errors["dense"] < 0.3 * (errors["magnitude"] - errors["dense"])
