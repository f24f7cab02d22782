"""Every kind of layer, through the real converters, into the real runtimes."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, export_onnx, export_tflite
from tests.helpers.partly_built import Detector, Wrapper, rows
from tests.helpers.runtimes import (
    SKIP,
    fresh_inputs,
    keras_outputs,
    needs_tensorflow,
    prune_by_hand,
    run_onnx,
    run_tflite,
)
from tests.helpers.training import compiled, mlp
from tests.helpers.training import data as training_data
from tests.helpers.zoo import ZOO

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)

EXPORTS = {"tflite": (export_tflite, run_tflite), "onnx": (export_onnx, run_onnx)}


def agree(model, report, run, samples):
    arguments, feed = fresh_inputs(model, samples)
    outputs = run(report.path, feed)
    for difference, expected in zip(report.outputs, keras_outputs(model, arguments)):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(outputs[difference.name], expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.fast_for(
    "mlp-tflite",
    "mlp-onnx",
    "cnn-tflite",
    "cnn-onnx",
    "conv3d-onnx",
    "lstm-onnx",
    "embedding-tflite",
    "dict_io-tflite",
    "dict_io-onnx",
    "subclassed-tflite",
)
@pytest.mark.parametrize("format", EXPORTS)
@pytest.mark.parametrize("kind", ZOO)
def test_exports_and_agrees(kind, format, tmp_path):
    export, run = EXPORTS[format]
    model = ZOO[kind]()
    zeros = prune_by_hand(model)
    before = [np.array(weight) for weight in model.get_weights()]
    report = export(model, tmp_path / f"model.{format}")
    assert report.max_rel_diff <= 1e-4
    agree(model, report, run, samples=1 if format == "tflite" else 3)
    # What the file stores is what Keras has, weight by weight.
    assert {weight.name: weight.sparsity for weight in report.weights} == pytest.approx(zeros)
    assert report.sparsity == pytest.approx(0.7, abs=0.02)
    assert report.bytes == (tmp_path / f"model.{format}").stat().st_size
    assert [note for note in report.notes if not note.startswith("not read by")] == []
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.fast_for("cnn")
@pytest.mark.parametrize("kind", ["cnn", "grouped_conv", "attention"])
def test_free_batch_size_in_tflite(kind, tmp_path):
    model = ZOO[kind]()
    report = export_tflite(model, tmp_path / "model.tflite", batch_size=None)
    agree(model, report, run_tflite, samples=5)


@pytest.mark.parametrize("format", EXPORTS)
def test_fixed_batch_size(format, tmp_path):
    export, run = EXPORTS[format]
    model = ZOO["lstm"]()
    report = export(model, tmp_path / f"model.{format}", batch_size=3)
    agree(model, report, run, samples=3)
    if format == "onnx":
        with pytest.raises(Exception, match=r"(?i)dimension"):
            agree(model, report, run, samples=2)


@pytest.mark.fast_for("False")
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_lstm_for_a_batch_of_one_is_no_loop(wrapped, tmp_path):
    import onnx

    lstm = layers.LSTM(8, return_sequences=True)
    x = inputs = keras.Input((7, 5))
    x = layers.Bidirectional(lstm)(x) if wrapped else lstm(x)
    model = keras.Model(inputs, [layers.Dense(3)(x), layers.LSTM(4)(x)])
    report = export_onnx(model, tmp_path / "model.onnx", batch_size=1)
    agree(model, report, run_onnx, samples=1)
    graph = onnx.load(report.path).graph
    operators = [node.op_type for node in graph.node]
    assert (operators.count("LSTM"), operators.count("Loop")) == (2, 0)
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    ]
    assert shapes == [[1, 7, 5], [1, 7, 3], [1, 4]]


@pytest.mark.slow
def test_what_has_no_lstm_operator_is_a_loop_for_a_batch_of_one(tmp_path):
    inputs = keras.Input((7,), dtype="int32")
    x = layers.LSTM(4)(layers.Embedding(9, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, x)
    report = export_onnx(model, tmp_path / "model.onnx", batch_size=1)
    agree(model, report, run_onnx, samples=1)


def test_recurrent_with_free_batch_says_what_to_do(tmp_path):
    with pytest.raises(ExportError, match="batch_size=1"):
        export_tflite(ZOO["gru"](), tmp_path / "model.tflite", batch_size=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast_for("mixed_float16-tflite", "mixed_bfloat16-onnx", "float16-onnx")
@pytest.mark.parametrize("format", EXPORTS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_low_precision_models_export_in_float32(policy, format, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = ZOO["cnn"]()
    report = EXPORTS[format][0](model, tmp_path / f"model.{format}")
    assert report.max_rel_diff <= 1e-4
    assert {weight.dtype for weight in report.weights} == {"float32"}
    assert any("computes in float32" in note for note in report.notes)
    assert {layer.dtype_policy.name for layer in model.layers} == {policy}


def test_float16_that_overflows_exports_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(4)])
    for layer in model.layers:
        layer.kernel.assign(layer.kernel * 1e4)
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.max_rel_diff <= 1e-4
    assert any("own outputs are not finite" in note for note in report.notes)


@pytest.mark.parametrize("format", EXPORTS)
def test_names_and_order_of_inputs_and_outputs(format, tmp_path):
    export, run = EXPORTS[format]
    a, b = keras.Input((4,), name="1st-input"), keras.Input((4,), name="a-b")
    outputs = {"z": a - 2 * b, "a/b": a, "again": a, "n": {"deep": a + b}}
    model = keras.Model([a, b], outputs)
    report = export(model, tmp_path / f"model.{format}", batch_size=None)
    x, y = np.eye(2, 4, dtype="float32"), np.ones((2, 4), "float32")
    result = run(report.path, {"tensor_1st_input": x, "a_b": y})
    assert set(result) == {"z", "a_b_1", "again", "n_deep"}
    np.testing.assert_array_equal(result["z"], x - 2 * y)
    np.testing.assert_array_equal(result["a_b_1"], x)
    np.testing.assert_array_equal(result["again"], x)
    np.testing.assert_array_equal(result["n_deep"], x + y)


@pytest.mark.parametrize("format", EXPORTS)
def test_preprocessing_layers_and_free_image_size(format, tmp_path):
    x = inputs = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])(x)
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    report = EXPORTS[format][0](model, tmp_path / f"model.{format}")
    assert report.max_rel_diff <= 1e-4
    assert any("dynamic dimensions" in note for note in report.notes)


@pytest.mark.parametrize("format", EXPORTS)
def test_models_that_are_not_built_in_every_layer(format, tmp_path):
    detector = Detector()
    detector(rows(6))
    export = EXPORTS[format][0]
    reports = [export(detector, tmp_path / f"detector.{format}")]
    # Never called: the model inside it, which has all the weights, says on what.
    reports.append(export(Wrapper(), tmp_path / f"wrapper.{format}"))
    assert [len(report.weights) for report in reports] == [2, 2]


def test_subclassed_model_takes_dtypes_from_inputs(tmp_path):
    class Tagger(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = layers.Embedding(20, 4)
            self.head = layers.Dense(3, activation="softmax")

        def call(self, ids):
            return self.head(self.embed(ids))

    model = Tagger()
    ids = np.random.default_rng(0).integers(0, 20, (6, 7))
    model(ids)
    report = export_onnx(model, tmp_path / "model.onnx", inputs=ids)
    assert (report.samples, report.top1_agreement) == (6, 1.0)
    output = run_onnx(report.path, {"input": ids.astype("int32")})["output"]
    np.testing.assert_allclose(output, model(ids), atol=1e-5)


@pytest.mark.fast_for("onnx")
@pytest.mark.parametrize("format", EXPORTS)
def test_stored_weights_are_told_apart_after_batch_norms_are_folded(format, tmp_path):
    rng = np.random.default_rng(0)
    x = inputs = keras.Input((9, 9, 6))
    for _ in range(3):
        x = layers.Conv2D(6, 3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.BatchNormalization()(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.normal(size=6))
            layer.moving_variance.assign(rng.uniform(0.1, 2, size=6))
    zeros = prune_by_hand(model, 0.4)
    kernel = model.layers[1].kernel
    kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.9), 0, kernel))
    zeros[kernel.path] = 1 - np.count_nonzero(kernel) / kernel.numpy().size
    report = EXPORTS[format][0](model, tmp_path / f"model.{format}")
    assert [weight.name for weight in report.weights] == list(zeros)
    assert {weight.name: weight.sparsity for weight in report.weights} == pytest.approx(zeros)


def test_older_opset(tmp_path):
    import onnx

    export_onnx(ZOO["cnn"](), tmp_path / "model.onnx", opset=13)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 13


def test_constant_outputs_are_said_to_prove_little(tmp_path):
    model = ZOO["mlp"]()
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.layers[-1].bias.assign(np.arange(5))
    report = export_onnx(model, tmp_path / "model.onnx")
    assert any("hardly verified" in note for note in report.notes)


def test_report_prints_and_is_plain_data(tmp_path):
    import json

    report = export_onnx(ZOO["cnn"](), tmp_path / "model.onnx")
    text = str(report)
    for part in ["model.onnx", "ONNX Runtime against Keras", "top-1 agreement", "conv2d"]:
        assert part in text
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["top1_agreement"] == 1.0
    assert plain["weights"][0]["sparsity"] == 0
    assert 0 < plain["gzipped_bytes"] < plain["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("format", EXPORTS)
def test_a_model_less_sparse_than_was_asked_is_exported_with_a_warning(format, tmp_path):
    model = compiled(mlp())
    x, y = training_data(64)
    model.fit(x, y, 16, epochs=2, verbose=0, callbacks=[kprune.Pruning(0.75)])
    model = kprune.strip_pruning(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*less sparse", UserWarning)
        EXPORTS[format][0](model, tmp_path / f"sparse.{format}")
    kernel = model.get_layer("second").kernel
    kernel.assign(np.ones(kernel.shape))
    share = (round(0.75 * 20 * 33) + round(0.75 * 17 * 2)) / (20 * 33 + 33 * 17 + 17 * 2)
    match = (
        f"exported is less sparse than was asked: {share:.4g}, where 0.75 was asked, in .*second"
    )
    with pytest.warns(UserWarning, match=match) as said:
        EXPORTS[format][0](model, tmp_path / f"m.{format}")
    (warning,) = [one for one in said if "less sparse" in str(one.message)]
    assert warning.filename == __file__
