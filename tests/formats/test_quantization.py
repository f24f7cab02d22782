"""Features of very different ranges, normalized inside the model, and integers."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.export import VerificationError, export_onnx, export_tflite
from kprune.formats.quantization import Node, normalizing
from kprune.formats.tflite.operators import tflite_operators
from tests.helpers.runtimes import SKIP, keras_outputs, needs_tensorflow, run_onnx, run_tflite

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


@pytest.fixture(scope="module")
def table():
    """Four features from 0.01 to 1,000,000, and a model that normalizes them."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(5e4, 1e4, 256), rng.normal(0.01, 0.003, 256)]
    columns += [rng.normal(-3, 2, 256), rng.uniform(0, 1e6, 256)]
    x = np.stack(columns, 1).astype("float32")
    keras.utils.set_random_seed(0)
    return x, model_of(x, layers.Normalization)


def model_of(x, normalization):
    layer = normalization()
    layer.adapt(x)
    inputs = keras.Input(x.shape[1:], name="x")
    hidden = layers.Dense(16, activation="relu")(layer(inputs))
    return keras.Model(inputs, layers.Dense(3)(hidden))


def error_of(output, model, x):
    (expected,) = keras_outputs(model, [x])
    return np.sqrt(np.mean((output - expected) ** 2) / np.mean(expected**2))


def test_int8_tflite_normalizes_in_float(table, tmp_path):
    x, model = table
    path = tmp_path / "m.tflite"
    report = export_tflite(model, path, "int8", x)
    outputs = [next(iter(run_tflite(path, {"x": row[None]}).values())) for row in x[:32]]
    assert error_of(np.concatenate(outputs), model, x[:32]) < 0.05
    dtypes = {
        name: {tensor.dtype for tensor in tensors}
        for name, tensors in tflite_operators(path.read_bytes())
    }
    assert dtypes["SUB"] == dtypes["MUL"] == {"float32"}
    assert dtypes["FULLY_CONNECTED"] == {"int8"}
    assert "left in float: MUL, SUB" in " ".join(report.notes)


def test_int8_onnx_normalizes_in_float(table, tmp_path):
    x, model = table
    path = tmp_path / "m.onnx"
    export_onnx(model, path, "int8", x)
    (output,) = run_onnx(path, {"x": x[:32]}).values()
    assert error_of(output, model, x[:32]) < 0.05


def test_int16x8_is_an_error_with_the_cause(table, tmp_path):
    x, model = table
    with pytest.raises(VerificationError, match=r"'x' \(from .*one scale.*outside of it"):
        export_tflite(model, tmp_path / "m.tflite", "int16x8", x)
    assert list(tmp_path.iterdir()) == []


def test_which_nodes_normalize():
    def node(name, kind, inputs, by_feature=False):
        return Node(name, kind == "scale", kind == "move", by_feature, inputs, [name])

    nodes = [
        node("cast", "move", ["x"]),
        node("mean", "scale", ["cast"], by_feature=True),
        node("deviation", "scale", ["mean"], by_feature=True),
        node("twice", "scale", ["deviation"]),
        node("dense", None, ["twice"]),
        node("bias", "scale", ["dense"], by_feature=True),
        node("image", "scale", ["y"]),
        node("rest", None, ["image"]),
    ]
    assert sorted(normalizing(nodes, ["x", "y"])) == ["cast", "deviation", "mean"]
