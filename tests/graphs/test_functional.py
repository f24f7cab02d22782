"""Models that Keras trains and predicts with are models whose channels can be cut."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.masking import outputs, randomize
from tests.helpers.partly_built import Detector, Siamese, Wrapper, rows, text

MODELS = {
    "a layer that call does not use": (Detector, rows(6), 2 * (6 * 8 + 8 * 3)),
    "siamese": (Siamese, [rows(8), rows(8)], 2 * (2 * (8 * 16 + 16 * 6) + 6)),
    "wrapper": (Wrapper, [rows(8), rows(8)], 2 * 2 * (8 * 16 + 16 * 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_subclassed_models(name):
    build, x, flops = MODELS[name]
    model = build()
    if name != "wrapper":
        model(x)
    randomize(model)
    assert kprune.flops(model).total == flops
    assert any(not group.frozen for group in kprune.channel_groups(model))
    kernel = model.body.kernel if name.startswith("a layer") else model.weights[0]
    value = np.array(ops.convert_to_numpy(kernel))
    value[:, :3] = 0  # What these channels emit moves into the next biases.
    kernel.assign(value)
    small = kprune.shrink(model)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)
    assert kprune.flops(small).total < flops


def _colors():
    color, size = keras.Input((1,), dtype="string"), keras.Input((3,))
    color_known = layers.StringLookup(vocabulary=["r", "g"], output_mode="one_hot")(color)
    x = layers.Dense(16, activation="relu")(layers.Concatenate()([color_known, size]))
    return keras.Model([color, size], layers.Dense(1)(x))


class Text(keras.Model):
    def __init__(self):
        super().__init__()
        self.stack = text().layers

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


_WORDS = np.array(["a b", "g e e x", "c"], dtype=object)
STRINGS = {
    "vectorized": (text, _WORDS, 2 * (8 * 16 + 16)),
    "looked up": (_colors, [np.array([["r"], ["x"]], object), rows(3)[:2]], 2 * (6 * 16 + 16)),
    "subclassed": (Text, _WORDS, 2 * (8 * 16 + 16)),
}


def _tensors(x):
    return keras.tree.map_structure(
        lambda a: ops.convert_to_tensor(a, "string" if a.dtype == object else None), x
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs no strings there")
@pytest.mark.parametrize("name", STRINGS)
def test_models_of_strings(name):
    build, x, flops = STRINGS[name]
    model, x = build(), _tensors(x)
    model(x)
    randomize(model)
    report = kprune.flops(model)
    assert report.total == flops
    assert not report.uncounted
    small = kprune.prune_channels(model, flops=0.5, round_to=1)
    assert abs(kprune.flops(small).total / flops - 0.5) <= 0.05
    assert np.isfinite(outputs(small, x)[0]).all()
    dense = next(layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense))
    for variable in dense.weights:
        value = np.array(ops.convert_to_numpy(variable))
        value[..., :5] = 0
        variable.assign(value)
    small = kprune.shrink(model)
    assert any(getattr(layer, "units", None) == 11 for layer in small.layers)
    np.testing.assert_allclose(outputs(small, x)[0], outputs(model, x)[0], 1e-4, 1e-4)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it runs strings")
def test_strings_are_cut_and_not_counted_where_keras_does_not_run_them():
    model = _colors()
    assert (
        kprune.prune_channels(model, params=0.6, round_to=1).count_params() < model.count_params()
    )
    with pytest.raises(ValueError, match="Keras runs strings on TensorFlow only"):
        kprune.flops(model)


def test_inputs_in_a_dict():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((5,), name="b")}
    x = layers.Concatenate()([layers.Dense(8)(inputs["a"]), layers.Dense(8)(inputs["b"])])
    model = keras.Model(inputs, {"out": layers.Dense(2)(layers.Dense(6, activation="relu")(x))})
    small = kprune.prune_channels(model, flops=0.6, round_to=1)
    x = {"a": rows(4), "b": rows(5)}
    assert small(x)["out"].shape == model(x)["out"].shape


class TiedOutput(keras.Model):
    """Multiplies with its embedding's table, outside of any layer."""

    def __init__(self, read=ops.transpose):
        super().__init__()
        self.table, self.mix = layers.Embedding(30, 16, name="table"), layers.Dense(16)
        self.inner, self.read = layers.Dense(24, activation="relu", name="inner"), read

    def call(self, x):
        return ops.matmul(self.mix(self.inner(self.table(x))), self.read(self.table.embeddings))


class TiedAutoencoder(keras.Model):
    """Decodes with the transposed kernels of its encoder."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(24, activation="relu", name="first")
        self.code = layers.Dense(16, activation="relu", name="code")
        self.inner = layers.Dense(20, activation="relu", name="inner")
        self.back = layers.Dense(16, activation="relu", name="back")

    def call(self, x):
        code = self.back(self.inner(self.code(self.first(x))))
        decoded = ops.relu(ops.matmul(code, ops.transpose(self.code.kernel)))
        return ops.matmul(decoded, ops.transpose(self.first.kernel))


@pytest.mark.parametrize(
    ("make", "x", "source"),
    [
        (TiedOutput, np.arange(14).reshape(2, 7) % 30, "table"),
        (TiedAutoencoder, rows(12), "first"),
    ],
)
def test_weights_that_a_call_reads_outside_of_layers_stay_tied(make, x, source):
    model = make()
    model(x)
    randomize(model)
    reasons = [reason for group in kprune.channel_groups(model) for reason in group.frozen]
    assert any(f"'{source}': its variable" in one and "also used by" in one for one in reasons)
    gone = np.arange(0, model.get_layer("inner").units, 3)
    kernel, bias = (np.array(value) for value in model.get_layer("inner").get_weights())
    kernel[:, gone], bias[gone] = 0, 0
    model.get_layer("inner").set_weights([kernel, bias])
    small = kprune.shrink(model)
    assert small.count_params() < model.count_params()
    assert len(small.trainable_variables) == len(model.trainable_variables)
    (before,) = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x)[0], before, 1e-4, 1e-4)
    # What one use of the weights does to them, the other sees.
    for one in (model, small):
        shared = one.get_layer(source).weights[0]
        shared.assign(shared * 3 + 1)
    (after,) = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x)[0], after, 1e-3, 1e-3)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda table: 2 * ops.transpose(table), "takes variables of the model outside"),
        (lambda table: ops.flip(ops.transpose(table), 1), r"table/embeddings' outside of a layer"),
    ],
)
def test_a_variable_that_would_be_recorded_as_a_constant_is_named_and_never_untied(read, message):
    model = TiedOutput(read)
    model(np.zeros((2, 7), "int32"))
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kprune.channel_groups(model)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_constants_of_a_call_are_fine():
    class Positions(TiedOutput):
        def call(self, x):
            return self.mix(self.inner(self.table(x) + ops.ones((7, 16)) / 3))

    model = Positions()
    model(np.zeros((2, 7), "int32"))
    assert kprune.prune_channels(model, params=0.8, round_to=1).count_params()
