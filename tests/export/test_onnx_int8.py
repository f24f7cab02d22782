"""Quantized ONNX files of a small pruned and trained model: size, accuracy, zeros."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, VerificationError, export_onnx, onnx_int8
from kprune.formats.onnx.constants import onnx_constants
from tests.helpers.runtimes import SKIP, digits_cnn, needs_tensorflow, prune_by_hand, run_onnx
from tests.helpers.zoo import ZOO

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


@pytest.fixture(scope="module")
def pruned(digits):
    x, y = digits
    model = digits_cnn()
    callback = kprune.Pruning(0.7)
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0, callbacks=[callback])
    return kprune.strip_pruning(model)


@pytest.fixture(scope="module")
def plain(pruned, tmp_path_factory):
    return export_onnx(pruned, tmp_path_factory.mktemp("plain") / "m.onnx")


def zeros(report):
    return {w.name: round(w.sparsity * np.prod(w.shape)) for w in report.weights}


@pytest.mark.parametrize(
    ("quantize", "shrinks", "dtypes"),
    [
        ("float16", 0.6, {"float16"}),
        ("dynamic", 0.6, {"float32", "int8"}),
        ("int8", 0.45, {"int8"}),
    ],
)
def test_quantized_files_are_small_keep_zeros_and_accuracy(
    quantize, shrinks, dtypes, pruned, plain, digits, tmp_path
):
    x, y = digits
    report = export_onnx(
        pruned, tmp_path / "m.onnx", quantize=quantize, representative_data=x[:200]
    )
    assert report.quantize == quantize
    assert report.bytes < shrinks * plain.bytes
    assert {weight.dtype for weight in report.weights} == dtypes
    assert zeros(plain) == {w.name: round(0.7 * np.prod(w.shape)) for w in plain.weights}
    # Rounding may add zeros and takes none away.
    assert set(zeros(report)) == set(zeros(plain))
    assert all(zeros(report)[name] >= count for name, count in zeros(plain).items())
    assert not any("zeros were" in note for note in report.notes)
    held_out = slice(1500, None)
    (scores,) = run_onnx(report.path, {"input": x[held_out]}).values()
    assert scores.dtype == "float32"
    expected = float((pruned(x[held_out]).numpy().argmax(1) == y[held_out]).mean())
    assert expected > 0.8
    assert float((scores.argmax(1) == y[held_out]).mean()) > expected - 0.03


def test_zeros_stay_in_place_in_8_bits(pruned, plain, digits, tmp_path):
    """Not only their number: where Keras has a zero, so has the file, at zero point 0."""
    import onnx

    path = tmp_path / "m.onnx"
    export_onnx(pruned, path, quantize="int8", representative_data=digits[0][:50])
    kernel = np.array(pruned.layers[-2].kernel)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    weights = [n for n, a in arrays.items() if a.dtype == "int8" and a.ndim > 1]
    assert len(weights) == 4
    for name in weights:
        assert not arrays[name.replace("_quantized", "_zero_point")].any()
    (found,) = [arrays[name] for name in weights if arrays[name].shape == kernel.shape]
    assert (found[kernel == 0] == 0).all()
    constants = {c.values.shape: c for c in onnx_constants(path.read_bytes())}
    stored = constants[kernel.shape]
    assert stored.dtype == "int8"
    np.testing.assert_allclose(stored.values, kernel, atol=np.abs(kernel).max() / 127)


def test_convolutions_stay_in_float_in_dynamic_files_and_the_report_says_so(pruned, tmp_path):
    report = export_onnx(pruned, tmp_path / "m.onnx", quantize="dynamic")
    assert any("left in float32" in note and "Conv" in note for note in report.notes)


@pytest.mark.fast_for("embedding-int8", "attention-dynamic")
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
@pytest.mark.parametrize("kind", ["bidirectional", "embedding", "attention", "masked_text"])
def test_other_layers(kind, quantize, tmp_path):
    model = ZOO[kind]()
    before = prune_by_hand(model)
    data = None
    if quantize == "int8":
        from kprune.graphs import sample_data as inputs
        from kprune.graphs.signature import describe

        data = inputs.generate(model, describe(model), 30)
    report = export_onnx(model, tmp_path / "m.onnx", quantize=quantize, representative_data=data)
    stored = {weight.name: weight for weight in report.weights}
    assert set(stored) == set(before)
    assert all(stored[name].sparsity >= share - 1e-6 for name, share in before.items())
    expected = "float16" if quantize == "float16" else "int8"
    assert expected in {weight.dtype for weight in report.weights}


def test_a_fixed_batch_size_is_calibrated_with(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 20))
    report = export_onnx(
        ZOO["mlp"](), tmp_path / "m.onnx", quantize="int8", representative_data=x, batch_size=3
    )
    assert report.outputs[0].rms_rel_diff < 0.05


def test_weights_beyond_float16_stay_in_float32(tmp_path):
    model = ZOO["mlp"]()
    model.layers[0].kernel.assign(model.layers[0].kernel * 1e6)
    report = export_onnx(model, tmp_path / "m.onnx", quantize="float16")
    assert [weight.dtype for weight in report.weights] == ["float32", "float16"]
    assert any("beyond the range" in note for note in report.notes)


def test_float16_goes_with_old_opsets(tmp_path):
    report = export_onnx(ZOO["cnn"](), tmp_path / "m.onnx", quantize="float16", opset=8)
    assert {weight.dtype for weight in report.weights} == {"float16"}


def test_wrong_ranges_are_caught_by_verification(pruned, digits, tmp_path):
    x, _ = digits
    with pytest.raises(VerificationError, match="root mean square"):
        export_onnx(
            pruned,
            tmp_path / "m.onnx",
            quantize="int8",
            representative_data=x[:50] * 0.01,
            inputs=x[:50],
        )
    assert list(tmp_path.iterdir()) == []


def test_a_quantizer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(folder, request):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(onnx_int8, "_dynamic", fails)
    with pytest.raises(ExportError, match=r"quantizer failed.*no such kernel"):
        export_onnx(ZOO["mlp"](), tmp_path / "m.onnx", quantize="dynamic")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"quantize": "int4"}, r"None, 'float16', 'dynamic', 'int8'.*Received: 'int4'"),
        ({"quantize": "int8"}, "needs `representative_data`"),
        ({"quantize": "int8", "representative_data": np.zeros((5, 19))}, r"Received: \(5, 19\)"),
        ({"quantize": "int8", "representative_data": np.full((5, 20), np.nan)}, "NaN"),
        ({"quantize": "dynamic", "opset": 12}, "at least 13"),
        ({"sparse": "yes"}, "'auto', True or False"),
    ],
)
def test_bad_arguments(arguments, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        export_onnx(ZOO["mlp"](), tmp_path / "m.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_loops_stay_in_float_and_the_report_says_so(quantize, tmp_path):
    """The quantizer alone would write a file whose nodes are out of order."""
    x = np.random.default_rng(0).normal(size=(32, 7, 5)).astype("float32")
    model = keras.Sequential(
        [keras.Input((7, 5)), layers.Bidirectional(layers.GRU(8)), layers.Dense(3)]
    )
    path = tmp_path / "m.onnx"
    report = export_onnx(model, path, quantize, representative_data=x, batch_size=1)
    assert any("left in float32: weights in loops" in note for note in report.notes)
    dtypes = {weight.name.split("/")[-2]: weight.dtype for weight in report.weights}
    assert dtypes == {"gru_cell": "float32", model.layers[-1].name: "int8"}


@pytest.mark.fast_for("int8")
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_both_directions_of_an_lstm(quantize, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 7, 5)).astype("float32")
    model = keras.Sequential(
        [keras.Input((7, 5)), layers.Bidirectional(layers.LSTM(8)), layers.Dense(3)]
    )
    report = export_onnx(model, tmp_path / "m.onnx", quantize, representative_data=x)
    stored = {"float16": "float16", "dynamic": "int8", "int8": "float32"}[quantize]
    dtypes = [weight.dtype for weight in report.weights if "lstm_cell" in weight.name]
    assert dtypes == [stored] * 4
    assert any("weights of LSTM" in note for note in report.notes) == (stored == "float32")
