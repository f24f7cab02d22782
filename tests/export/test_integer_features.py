"""Raw features and integer inputs: what normalizes them inside the model, in trained models."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, VerificationError
from kprune.formats.tflite.operators import tflite_operators
from kprune.runtimes.litert import LiteRT
from tests.helpers.runtimes import SKIP, needs_tensorflow

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def operators(report):
    with open(report.path, "rb") as file:
        return tflite_operators(file.read())


def outputs(report, *arrays):
    file = LiteRT(report.path)
    names = [each.name for each in report.io if each.kind == "input"]
    rows = [file({n: a[i : i + 1] for n, a in zip(names, arrays)}) for i in range(len(arrays[0]))]
    return np.concatenate([next(iter(row.values())) for row in rows])


def accuracy(scores, y):
    return float((scores.argmax(1) == y).mean())


def table(ratio, samples=1400):
    """Eight features of ranges from 1 to `ratio`, far from zero, that all tell of the class."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(samples, 8))
    y = np.tanh(z @ rng.normal(size=(8, 3)))
    y += 0.5 * np.stack([z[:, i] * z[:, 7 - i] for i in range(3)], 1)
    scale = np.geomspace(1, ratio, 8)
    return (z * scale + scale * rng.normal(size=8)).astype("float32"), y.argmax(1)


def classifier(x, y, front):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:], name="x")
    hidden = layers.Dense(32, activation="relu")(front(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x[:1000], y[:1000], epochs=20, batch_size=64, verbose=0)
    return model


def normalization(x):
    layer = layers.Normalization()
    layer.adapt(x)
    return layer


@pytest.mark.fast_for("8")
@pytest.mark.parametrize("ratio", [1, 8])
def test_features_of_about_one_range_leave_nothing_before_the_first_kernel(ratio, tmp_path):
    x, y = table(ratio)
    model = classifier(x, y, normalization(x))
    report = kprune.export_tflite(model, tmp_path / "m.tflite", "int8", x[:300], io="int8")
    names = [name for name, _ in operators(report)]
    assert names == ["FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX"]
    assert {tensor.dtype for _, tensors in operators(report) for tensor in tensors} == {"int8", 2}
    assert len(report.weights) == 2
    here = accuracy(model.predict(x[1000:], verbose=0), y[1000:])
    assert here > 0.75
    assert accuracy(outputs(report, x[1000:]), y[1000:]) > here - 0.03
    assert report.outputs[0].rms_rel_diff < 0.1
    assert bool([note for note in report.notes if "of the 256 values" in note]) == (ratio == 8)
    given = report.io[0]
    low, high = (given.scale * (code - given.zero_point) for code in (-128, 127))
    assert high - low == pytest.approx(max(x[:300].max(), 0) - min(x[:300].min(), 0), rel=0.01)


@pytest.mark.slow
def test_features_of_different_ranges_do_not_fit_one_input(tmp_path):
    x, y = table(3e4)
    model = classifier(x, y, normalization(x))
    said = r"'x' \(from .*one int8 input, which has one scale.*outside of it.*inputs of their own"
    with pytest.raises(ExportError, match=said):
        kprune.export_tflite(model, tmp_path / "m.tflite", "int8", x[:300], io="int8")
    with pytest.raises(VerificationError, match="one int16 input, which has one scale"):
        kprune.export_tflite(model, tmp_path / "m.tflite", "int16x8", x[:300], io="int16")
    assert list(tmp_path.iterdir()) == []
    # What the error says: normalized outside, or float inputs.
    outside, inner = model.layers[1], keras.Input((8,), name="x")
    inside = keras.Model(inner, model.layers[3](model.layers[2](inner)))
    normal = keras.ops.convert_to_numpy(outside(x))
    kwargs = {"quantize": "int8", "representative_data": normal[:300]}
    report = kprune.export_tflite(inside, tmp_path / "n.tflite", io="int8", **kwargs)
    here = accuracy(model.predict(x[1000:], verbose=0), y[1000:])
    assert accuracy(outputs(report, normal[1000:]), y[1000:]) > here - 0.03
    kwargs["representative_data"] = x[:300]
    floats = kprune.export_tflite(model, tmp_path / "f.tflite", **kwargs)
    assert accuracy(outputs(floats, x[1000:]), y[1000:]) > here - 0.03


@pytest.mark.slow
def test_inputs_of_their_own_have_scales_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    wide, narrow = rng.uniform(0, 1e5, (1400, 2)), rng.uniform(0, 1, (1400, 2))
    wide, narrow = wide.astype("float32"), narrow.astype("float32")
    y = (wide[:, 0] / 1e5 + narrow[:, 0] > wide[:, 1] / 1e5 + narrow[:, 1]).astype(int)
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((2,), name="a"), keras.Input((2,), name="b")]
    normal = [normalization(x)(given) for x, given in zip((wide, narrow), inputs)]
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()(normal))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit([wide[:1000], narrow[:1000]], y[:1000], epochs=20, batch_size=64, verbose=0)
    report = kprune.export_tflite(
        model, tmp_path / "m.tflite", "int8", [wide[:300], narrow[:300]], io="int8"
    )
    scales = {each.name: each.scale for each in report.io if each.kind == "input"}
    assert scales["a"] == pytest.approx(1e5 / 255, rel=0.02)
    assert scales["b"] == pytest.approx(1 / 255, rel=0.02)
    assert not any("left in float" in note for note in report.notes)
    arrays = {"a": wide[1000:], "b": narrow[1000:]}
    scores = outputs(report, *(arrays[name] for name in scales))
    assert accuracy(scores, y[1000:]) > 0.95


@pytest.fixture(scope="module")
def pixels(digits):
    """Images of 0 to 255."""
    x, y = digits
    return np.round(x * 255).astype("float32"), y


@pytest.mark.fast_for("scaled-valid")
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kind", ["scaled", "shifted", "colours", "augmented"])
def test_images_come_in_as_pixels(kind, padding, pixels, tmp_path):
    x, y = pixels
    fronts = {
        "scaled": [layers.Rescaling(1 / 255)],
        "shifted": [layers.Rescaling(1 / 127.5, -1)],
        "colours": [layers.Normalization(mean=[78.0, 80.0], variance=[96.0**2, 94.0**2])],
        "augmented": [layers.RandomTranslation(0.1, 0.1), layers.Rescaling(1 / 255)],
    }
    x = np.concatenate([x, 255 - x], -1) if kind == "colours" else x
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:], name="image"),
            *fronts[kind],
            layers.Conv2D(16, 3, padding=padding, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0)
    report = kprune.export_tflite(model, tmp_path / "m.tflite", "int8", x[:200], io="uint8")
    given = report.io[0]
    assert (given.dtype, given.zero_point) == ("uint8", 0)
    assert given.scale == pytest.approx(1, rel=1e-3)
    assert not any("float32" in (t.dtype for t in tensors) for _, tensors in operators(report))
    names = [name for name, _ in operators(report)]
    assert names[0] == "QUANTIZE"  # From uint8 to int8.
    before = names[1 : names.index("CONV_2D")]
    with_padding = {"shifted": ["MUL", "ADD"], "colours": ["SUB"]}
    assert before == (with_padding.get(kind, []) if padding == "same" else [])
    here = accuracy(model.predict(x[1500:], verbose=0), y[1500:])
    assert here > 0.8
    assert abs(accuracy(outputs(report, x[1500:]), y[1500:]) - here) < 0.02
