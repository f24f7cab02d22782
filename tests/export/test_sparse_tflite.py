"""Sparse files: what `sparse` and `target` do to a file."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, export_tflite
from kprune.formats.tflite.sparsity import in_blocks
from tests.helpers.runtimes import SKIP, needs_tensorflow, prune_by_hand, run_tflite
from tests.helpers.target_graphs import depthwise, end, model, pointwise, stem, zero

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def dense_model(sparsity, blocks=True, inputs=128, outputs=96):
    built = keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs)])
    rng = np.random.default_rng(0)
    rows = inputs // 4 if blocks else inputs
    kept = rng.permutation(rows * outputs).reshape(rows, outputs) >= sparsity * rows * outputs
    kernel = rng.normal(size=(inputs, outputs)) * np.repeat(kept, inputs // rows, axis=0)
    built.layers[0].kernel.assign(kernel)
    return built


def encodings(report):
    return {weight.encoding for weight in report.weights}


def test_auto_is_the_default_and_dense_models_stay_dense(tmp_path):
    report = export_tflite(dense_model(0.2), tmp_path / "m.tflite")
    assert (encodings(report), report.targets, report.notes) == ({"dense"}, {}, [])
    report = export_tflite(dense_model(0.9), tmp_path / "m.tflite")
    assert encodings(report) == {"sparse"}
    assert report.targets["litert-x86"] > 3 > report.targets["litert-wasm"] > 1
    assert "on litert-x86" in str(report)


@pytest.mark.fast_for("0.9-None-True", "0.8-litert-wasm-False")
@pytest.mark.parametrize(
    ("sparsity", "target", "blocks"),
    [
        (0.9, None, True),
        (0.8, None, True),
        (0.8, "litert-x86", True),
        (0.8, "litert-wasm", False),
        (0.5, None, False),
    ],
)
def test_blocks_only_where_they_are_faster(sparsity, target, blocks, tmp_path):
    built = dense_model(sparsity)
    path = tmp_path / "m.tflite"
    report = export_tflite(built, path, target=target)
    assert encodings(report) == {"sparse"}
    assert bool(in_blocks(path.read_bytes())) == blocks
    x = np.random.default_rng(1).normal(size=(1, 128)).astype("float32")
    (out,) = run_tflite(path, {"input": x}).values()
    np.testing.assert_allclose(out, built.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    (weight,) = report.weights
    assert weight.sparsity == pytest.approx(sparsity, abs=0.01)


@pytest.mark.slow
def test_sparse_is_not_larger_than_dense(tmp_path):
    # A value and its place in a row of more than 256 take 6 bytes, a dense value 4.
    built = dense_model(0.31, blocks=False, inputs=300)
    report = export_tflite(built, tmp_path / "m.tflite")
    assert encodings(report) == {"dense"}
    assert "its sparse weights would take" in report.notes[0]
    with pytest.raises(ExportError, match="its sparse weights would take"):
        export_tflite(built, tmp_path / "n.tflite", sparse=True)
    assert not (tmp_path / "n.tflite").exists()


def test_ninety_percent_zeros_take_a_sixth(tmp_path):
    built = dense_model(0.9, blocks=False, inputs=512, outputs=256)
    dense = export_tflite(built, tmp_path / "d.tflite", sparse=False)
    sparse = export_tflite(built, tmp_path / "s.tflite")
    assert sparse.bytes <= 0.17 * dense.bytes


def test_rewrites_are_reported_and_the_original_is_compared(tmp_path):
    built = model("same_depthwise")
    path = tmp_path / "m.tflite"
    report = export_tflite(built, path, sparse=True)
    assert report.rewrites == ["dw3: stride-2 depthwise as 5x5 with padding 2 on each side"]
    assert "rewritten" in str(report)
    assert kprune.check(path, "litert-wasm").ok
    assert report.targets["litert-wasm"] > 1 == report.targets["litert-x86"]
    x86 = export_tflite(built, path, sparse=True, target="litert-x86")
    assert x86.rewrites == []
    assert list(x86.targets) == ["litert-x86"]


def test_files_off_the_sparse_path_where_it_is_wrong(tmp_path):
    path = tmp_path / "m.tflite"
    report = export_tflite(model("max_pooling"), path)
    assert "to keep the file off XNNPACK's sparse path" in report.rewrites[0]
    assert encodings(report) == {"dense", "sparse"}
    assert kprune.check(path, "litert-wasm").ok


def without_rewrites(monkeypatch):
    monkeypatch.setattr("kprune.export.sparse_tflite.rewrite", lambda model, *_, **__: (model, []))


@pytest.mark.slow
def test_a_trap_that_is_not_rewritten_is_stored_dense_or_refused(tmp_path, monkeypatch):
    without_rewrites(monkeypatch)
    path = tmp_path / "m.tflite"
    built = model("convolution_after_mean")
    report = export_tflite(built, path)
    assert encodings(report) == {"dense"}
    assert "stored dense: on litert-arm64 and litert-wasm it does not run" in report.notes[0]
    path.unlink()
    with pytest.raises(ExportError, match=r"does not run.*sparse='auto'"):
        export_tflite(built, path, sparse=True)
    assert not path.exists()
    assert encodings(export_tflite(built, path, sparse=True, target="litert-x86")) >= {"sparse"}


@pytest.mark.fast_for("int8")
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8", "int16x8"])
def test_quantized_zeros_are_all_kept(quantize, tmp_path):
    built = model("batch_normalization", sparsity=0.0)
    zeros = prune_by_hand(built, 0.8)
    data = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype("float32")
    report = export_tflite(
        built, tmp_path / "m.tflite", quantize=quantize, representative_data=data, tolerance=1.0
    )
    found = {weight.name: weight.sparsity for weight in report.weights}
    assert set(found) == set(zeros)
    assert all(found[name] >= zeros[name] - 1e-9 for name in zeros)
    assert not any("not all zeros" in note for note in report.notes)
    if quantize != "float16":
        assert any("does not load sparse integer weights" in note for note in report.notes)


def test_arguments(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match=r"litert-arm64.*Received: 'phone'"):
        export_tflite(dense_model(0.9), path, target="phone")
    with pytest.raises(ValueError, match=r"does not run \.tflite files"):
        export_tflite(dense_model(0.9), path, target="onnxruntime")
    with pytest.raises(ValueError, match=r"'auto', True or False\. Received: 'yes'"):
        export_tflite(dense_model(0.9), path, sparse="yes")


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [6, 33])
def test_inputs_that_do_not_divide_into_blocks_are_all_stored(inputs, tmp_path):
    built = dense_model(0.8, inputs=inputs // 4 * 4, outputs=24)
    kernel = np.concatenate([built.layers[0].kernel, np.ones((inputs % 4, 24))])
    built = keras.Sequential([keras.Input((inputs,)), layers.Dense(24)])
    built.layers[0].kernel.assign(kernel)
    report = export_tflite(built, tmp_path / "m.tflite", sparse=True)
    (weight,) = report.weights
    assert (weight.encoding, weight.sparsity) == ("sparse", np.mean(kernel == 0))


@pytest.mark.fast_for("33")
@pytest.mark.parametrize("size", [33, 34])  # odd at the first convolution, and at the depthwise
def test_odd_images_stay_on_the_sparse_path(size, tmp_path):
    inputs = keras.Input((size, size, 3))
    x = pointwise(stem(inputs))
    built = keras.Model(inputs, end(pointwise(depthwise(x, strides=2, padding=1))))
    for layer in built.layers:
        if getattr(layer, "kernel_size", 0) == (1, 1):
            zero(layer.kernel, 0.9)
    report = export_tflite(built, tmp_path / "m.tflite")
    notes = [note for note in report.notes if not note.startswith("not read by")]
    assert (notes, report.rewrites) == ([], [])
    for checked in (built, tmp_path / "m.tflite"):
        verdicts = [layer.verdict for layer in kprune.check(checked, "litert-wasm").layers]
        assert verdicts.count("sparse and faster") == 2


def test_layers_that_cannot_be_copied(tmp_path):
    class Own(layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

    inputs = keras.Input((32, 32, 3))
    x = Own(keras.ops.relu)(depthwise(stem(inputs), strides=2))
    built = keras.Model(inputs, end(pointwise(x)))
    zero(built.layers[-3].kernel, 0.9)
    report = export_tflite(built, tmp_path / "m.tflite")
    assert report.rewrites == []
    assert kprune.check(built, "litert-wasm").ok
    with pytest.raises(ValueError, match=r"'own.*cannot be made again .*`get_config.*: Own, "):
        kprune.prepare(built, "litert-wasm")


def test_the_browser_needs_a_batch_size(tmp_path):
    path = tmp_path / "m.tflite"
    export_tflite(dense_model(0.9), path, batch_size=None)
    assert kprune.check(path, "litert-x86").ok
    report = kprune.check(path, "litert-wasm")
    assert not report.ok
    assert "has dynamic dimensions, (-1, 128)" in report.layers[0].reason
    with pytest.raises(ValueError, match="fixed batch size only"):
        export_tflite(dense_model(0.9), path, batch_size=None, target="litert-wasm")


def test_zeros_that_are_stored_dense(tmp_path):
    export_tflite(model("plain"), tmp_path / "m.tflite", sparse=False)
    report = kprune.check(tmp_path / "m.tflite", "litert-wasm")
    assert any("weights are zero, but they are stored dense" in row.reason for row in report.layers)


@pytest.mark.fast_for("3")
@pytest.mark.parametrize("inputs", [2, 3, 5])
def test_fewer_inputs_than_a_block_holds(inputs, tmp_path):
    """The converter writes whole blocks also where the matrix ends before."""
    model = keras.Sequential([keras.Input((inputs,)), layers.Dense(5)])
    kernel = model.layers[0].kernel.numpy()
    kernel[0] = 0
    model.layers[0].kernel.assign(kernel)
    report = export_tflite(model, tmp_path / "m.tflite")
    assert report.max_rel_diff < 1e-5
    assert report.sparsity == pytest.approx(1 / inputs)
