"""Channels scored by their activations are scored by what NumPy says of these."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.structured import APoZ, MeanActivation
from kprune.structured.activations import activation_scores
from tests.helpers.masking import graph_and_groups, randomize
from tests.helpers.training import backend

MEASURES = [(APoZ(), lambda a: a > 0), (MeanActivation(), np.abs)]


def _images(n=100, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 8, 8, 3)).astype("float32")


def _head(x):
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="pool")(x))


def _model(*after):
    """A convolution of six channels, what follows it, and one that takes them in."""
    inputs = x = keras.Input((8, 8, 3))
    for layer in (layers.Conv2D(6, 3, padding="same", name="conv"), *after):
        x = layer(x)
    model = keras.Model(inputs, _head(layers.Conv2D(4, 1, name="next")(x)))
    randomize(model)
    return model


def _until(model, name, x):
    """What a layer gives on data, as an array."""
    part = keras.Model(model.input, model.get_layer(name).output)
    return ops.convert_to_numpy(part(x, training=False))


def _scores(model, criterion, data, name="conv"):
    graph, groups = graph_and_groups(model)
    found = activation_scores(graph, groups, criterion, data)
    return next(score for score, group in zip(found, groups) if group.name == name)


def _of(measure, activations):
    """The mean for each channel, which are last, divided by the mean over channels."""
    means = measure(activations).astype("float64").mean(tuple(range(activations.ndim - 1)))
    return means / means.mean()


@pytest.mark.parametrize(("criterion", "measure"), MEASURES)
@pytest.mark.parametrize(
    "after",
    [
        lambda: [layers.BatchNormalization(), layers.ReLU(name="seen")],
        lambda: [
            layers.Activation("relu", name="seen"),
            layers.ZeroPadding2D(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5),
        ],
        # Of what comes out of the normalization nothing is zero.
        lambda: [layers.ReLU(name="seen"), layers.BatchNormalization()],
        lambda: [layers.BatchNormalization(name="seen")],
    ],
)
def test_behind_the_activation_function(after, criterion, measure):
    model, x = _model(*after()), _images()
    expected = _of(measure, _until(model, "seen", x))
    np.testing.assert_allclose(_scores(model, criterion, x), expected, rtol=1e-4)


@pytest.mark.parametrize(("criterion", "measure"), MEASURES)
def test_dense(criterion, measure):
    """An activation that is built in; the channels of a Flatten are seen before it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    x = layers.Dense(10, activation="relu", name="dense")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model)
    for name in ("conv", "dense"):
        expected = _of(measure, _until(model, name, _images()))
        got = _scores(model, criterion, _images(), name)
        np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize(("criterion", "measure"), MEASURES)
def test_a_residual_sum(criterion, measure):
    """All layers that add to it have one score: the mean over the places where it is taken in."""
    inputs = keras.Input((8, 8, 3))
    stem = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(stem)
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.ReLU(name="sum")(layers.Add()([stem, x]))
    model = keras.Model(inputs, _head(layers.Conv2D(4, 1)(x)))
    randomize(model)
    x = _images()
    expected = [_of(measure, _until(model, name, x)) for name in ("conv", "sum")]
    np.testing.assert_allclose(_scores(model, criterion, x), np.mean(expected, 0), rtol=1e-4)
    inner = _of(measure, _until(model, "inner", x))
    np.testing.assert_allclose(_scores(model, criterion, x, "inner"), inner, rtol=1e-4)


def test_channels_of_a_concatenation():
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    right = layers.Conv2D(5, 3, activation="relu", name="right")(inputs)
    both = layers.Concatenate()([left, right])
    model = keras.Model(inputs, _head(layers.Conv2D(4, 1)(both)))
    randomize(model)
    for name in ("conv", "right"):
        expected = _of(np.abs, _until(model, name, _images()))
        got = _scores(model, MeanActivation(), _images(), name)
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_tied_filters_are_one_channel():
    """Grouped convolutions: a channel is all the filters that leave together."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, groups=2, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, _head(layers.Conv2D(4, 1)(x)))
    randomize(model)
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 4)).astype("float32")
    means = np.abs(_until(model, "conv", x)).mean((0, 1, 2)).reshape(2, 4).mean(0)
    got = _scores(model, MeanActivation(), x)
    np.testing.assert_allclose(got, means / means.mean(), rtol=1e-4)


class _Block(keras.layers.Layer):
    """Two layers in one; of `sized` ones the call computes with the size of its input."""

    def __init__(self, width=6, sized=False, **options):
        super().__init__(**options)
        self.width, self.sized = width, sized
        self.first = layers.Conv2D(width, 3, padding="same", activation="relu", name="first")
        self.second = layers.Conv2D(3, 1, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.width))

    def call(self, x):
        y = self.first(x)
        if self.sized:
            y = y * (x.shape[1] / 8.0)
            y = ops.reshape(y, (-1, x.shape[1], x.shape[2], self.width))
        return x + self.second(y)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "sized": self.sized}


def _with_block(shape=(8, 8, 3), **options):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, _head(_Block(name="block", **options)(inputs)))
    randomize(model)
    return model


def test_inside_a_custom_layer():
    model, x = _with_block(), _images()
    hidden = ops.convert_to_numpy(model.get_layer("block").first(x))
    got = _scores(model, APoZ(), x, "block/first")
    np.testing.assert_allclose(got, _of(lambda a: a > 0, hidden), rtol=1e-4)


def test_inside_a_custom_layer_that_computes_with_sizes():
    """What was recorded of it is believed where it does the same on the data."""
    if backend() == "tensorflow":
        pytest.skip("sizes that are left open are tensors there")
    model = _with_block((None, None, 3), sized=True)
    graph, groups = graph_and_groups(model)
    group = next(one for one in groups if one.name == "block/first")
    size = next(iter(graph.input_shape.values()))[0]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, size, size, 3)).astype("float32")
    hidden = ops.convert_to_numpy(model.get_layer("block").first(x))
    found = activation_scores(graph, [group], MeanActivation(), x)[0]
    np.testing.assert_allclose(found, _of(np.abs, hidden), rtol=1e-4)
    other = rng.normal(size=(9, size + 2, size + 2, 3)).astype("float32")
    with pytest.raises(ValueError, match="block/first cannot be seen"):
        activation_scores(graph, [group], MeanActivation(), other)


def test_a_nested_model_that_is_called_twice():
    """What both calls see counts."""
    inner_inputs = keras.Input((8, 8, 3))
    inner = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(inner_inputs)
    inner = keras.Model(inner_inputs, layers.Conv2D(3, 1)(inner), name="inner")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, _head(inner(inner(inputs))))
    randomize(model)
    x = _images()
    calls = [x, ops.convert_to_numpy(inner(x))]
    hidden = [ops.convert_to_numpy(inner.get_layer("conv")(one)) for one in calls]
    got = _scores(model, MeanActivation(), x)
    np.testing.assert_allclose(got, _of(np.abs, np.concatenate(hidden)), rtol=1e-4)


@pytest.mark.parametrize("criterion", [APoZ(), MeanActivation()])
def test_a_dead_channel_goes_first(criterion):
    """Though its weights are the largest."""
    model = _model(layers.ReLU())
    conv = model.get_layer("conv")
    kernel, bias = conv.get_weights()
    kernel[..., 2] = 5 * np.abs(kernel).max()
    bias[2] = -1e4
    conv.set_weights([kernel, bias])
    x = _images()
    assert _scores(model, criterion, x).argmin() == 2
    small = kprune.prune_channels(
        model, channels=0.8, criterion=criterion, data=x, round_to=1, layers="conv"
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(x)), ops.convert_to_numpy(model(x)), rtol=1e-3, atol=1e-4
    )
    assert small.get_layer("conv").filters == 5


def test_data_of_any_form():
    model, x = _model(layers.BatchNormalization(), layers.ReLU()), _images()
    y = np.zeros(len(x))
    expected = _scores(model, APoZ(), x)
    forms = [
        (x, y), (x, None), (x, y, y), [x[:30], x[30:]], [(x[:30], y[:30]), (x[30:], y[30:])],
        ((part, None) for part in np.split(x, 4)), {model.inputs[0].name: x},
        ops.convert_to_tensor(x), x.astype("float64"), [x[:0], x],
    ]  # fmt: skip
    if backend() == "tensorflow":
        tf = pytest.importorskip("tensorflow")
        dataset = tf.data.Dataset.from_tensor_slices((x, y))
        forms += [dataset.batch(7), dataset.batch(32).map(lambda a, b: a)]
    for form in forms:
        np.testing.assert_allclose(_scores(model, APoZ(), form), expected, rtol=1e-5)


class _Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.split(_images(), 4)[index], np.zeros(25)


def test_a_dataset_of_keras():
    model = _model(layers.ReLU())
    expected = _scores(model, MeanActivation(), _images())
    got = _scores(model, MeanActivation(), _Batches())
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_several_inputs():
    first, second = keras.Input((5,), name="first"), keras.Input((4,), name="second")
    x = layers.Concatenate()([first, second])
    x = layers.Dense(6, activation="relu", name="dense")(x)
    model = keras.Model([first, second], layers.Dense(2, name="out")(x))
    randomize(model)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(70, n)).astype("float32") for n in (5, 4))
    hidden = np.maximum(
        np.concatenate([a, b], 1) @ ops.convert_to_numpy(model.get_layer("dense").kernel)
        + ops.convert_to_numpy(model.get_layer("dense").bias),
        0,
    )
    for data in ([a, b], ([a, b], None), ((a, b), np.zeros(70)), {"second": b, "first": a}):
        got = _scores(model, MeanActivation(), data, "dense")
        np.testing.assert_allclose(got, _of(np.abs, hidden), rtol=1e-4)


def test_the_axis_that_fit_would_add():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, _head(layers.Conv2D(4, 1)(x)))
    x = np.random.default_rng(0).normal(size=(5, 8, 8)).astype("float32")
    got = _scores(model, MeanActivation(), x)
    np.testing.assert_allclose(got, _scores(model, MeanActivation(), x[..., None]), rtol=1e-6)


def test_the_model_is_as_it_was():
    """Weights, statistics, the state of what has any, and how it is compiled."""
    inputs = keras.Input((4, 5), batch_size=20)
    x = layers.LSTM(6, stateful=True, name="lstm")(inputs)
    x = layers.Dropout(0.5)(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(7, activation="relu")(x)))
    model.compile("adam", "mse")
    randomize(model)
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    names, optimizer = [layer.name for layer in model.layers], model.optimizer
    data = np.random.default_rng(0).normal(size=(20, 4, 5)).astype("float32")
    kprune.prune_channels(model, params=0.6, criterion=APoZ(), data=data, round_to=1)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert [layer.name for layer in model.layers] == names
    assert model.optimizer is optimizer
    assert model.loss == "mse"
    if backend() != "torch":  # Keras cannot train stateful layers there.
        model.fit(data, np.zeros((20, 2)), batch_size=20, verbose=0)


def test_lower_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _model(layers.ReLU(name="seen"))
    finally:
        keras.config.set_dtype_policy("float32")
    expected = _of(np.abs, _until(model, "seen", _images()).astype("float32"))
    np.testing.assert_allclose(_scores(model, MeanActivation(), _images()), expected, rtol=1e-2)


def test_with_depth():
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(inputs)
    for _ in range(3):
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="relu")(x))])
    model = keras.Model(inputs, layers.Dense(3)(x))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 6)).astype("float32"), rng.normal(size=(64, 3)).astype("float32")
    for criterion in (APoZ(), MeanActivation()):
        small = kprune.prune_channels(
            model,
            params=0.5,
            criterion=criterion,
            data=data,
            loss="mse",
            depth=True,
            round_to=1,
        )
        assert small.count_params() <= 0.52 * model.count_params()


def test_heads_that_cannot_be_seen():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(4, 4, name="attention")(inputs, inputs)
    x = layers.Dense(16, activation="relu", name="dense")(layers.Add()([x, inputs]))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    data = np.random.default_rng(0).normal(size=(9, 5, 8)).astype("float32")
    options = {"criterion": APoZ(), "data": data, "round_to": 1}
    with pytest.raises(ValueError, match=r"by attention cannot be seen.*'attention': None"):
        kprune.prune_channels(model, channels=0.5, **options)
    small = kprune.prune_channels(model, channels=0.5, **options, layers={"attention": None})
    assert small.get_layer("dense").units == 8


def test_bad_data():
    model, x = _model(layers.ReLU()), _images(8)
    bad = x.copy()
    bad[3, 2, 2] = np.nan
    cases = [
        (None, "pass `data=x`"), (x[:0], "no example"), ([], "no example"),
        (iter(()), "no example"), (bad, "NaN"), ((bad, None), "NaN"), (x[..., :2], "does not fit"),
        (x[:, 0], "does not fit"), ([x, x[..., :2]], "does not fit"), (3, "nothing that `fit`"),
        ({"a": x, "b": x}, "an array for each"),
    ]  # fmt: skip
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            kprune.prune_channels(model, channels=0.5, criterion=APoZ(), data=data, round_to=1)
    conv = model.get_layer("conv")
    kernel, bias = conv.get_weights()
    conv.set_weights([kernel, bias * np.nan])
    with pytest.raises(ValueError, match=r"NaN or infinite.*'conv'"):
        kprune.prune_channels(model, channels=0.5, criterion=MeanActivation(), data=x, round_to=1)


@pytest.mark.parametrize("criterion", [APoZ(), MeanActivation()])
def test_training_has_no_such_score(criterion):
    for pattern in (None, kprune.Channels()):
        with pytest.raises(TypeError, match=r"use it in kprune\.prune_channels"):
            kprune.Pruning(0.5, criterion=criterion, pattern=pattern)


def test_one_of_your_own():
    """The variance, say, of what is not cast to anything."""

    class Strong(MeanActivation):
        def __call__(self, weight, gradient=None):
            return ops.square(weight)

    model, x = _model(layers.ReLU(name="seen")), _images()
    expected = _of(np.square, _until(model, "seen", x))
    np.testing.assert_allclose(_scores(model, Strong(), x), expected, rtol=1e-4)
