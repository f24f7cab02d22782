"""The doctor: what it says, its exit status, and damaged files."""

import json
import time
import tracemalloc

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from typer.testing import CliRunner

import kprune
from kprune.cli import app
from kprune.graphs.weights import weights_of
from kprune.targets.target import TARGETS, get_target
from tests.helpers.runtimes import SKIP, needs_tensorflow, prune_by_hand
from tests.helpers.target_graphs import as_it_is, model, zero
from tests.helpers.zoo import ZOO

on_tensorflow = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("plain", "convolution_after_mean", "same_depthwise"):
        (folder / f"{name}.tflite").write_bytes(as_it_is(name))
    return folder


def verdicts(report):
    return {layer.name: layer.verdict for layer in report.layers}


def test_models_as_the_export_will_write_them():
    report = kprune.check(model("same_depthwise"), "litert-wasm")
    assert report.ok
    assert report.estimated_gain > 1.2
    assert verdicts(report)["stem"] == "dense"
    assert list(verdicts(report).values()).count("sparse and faster") == 3
    assert any("the export rewrites dw3" in note for note in report.notes)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    x86 = kprune.check(model("same_depthwise"), "litert-x86")
    assert x86.estimated_gain == 1.0
    assert "sparse and faster" not in verdicts(x86).values()
    assert any("densely by design" in layer.reason for layer in x86.layers)


@pytest.mark.fast_for("conv1d", "embedding")
@on_tensorflow
@pytest.mark.parametrize("kind", ["conv1d", "conv3d", "gru", "attention", "embedding"])
def test_layers_that_no_sparse_kernel_is_for_are_listed_as_they_are_stored(kind, tmp_path):
    keras.utils.set_random_seed(0)
    pruned = ZOO[kind]()
    prune_by_hand(pruned, 0.8)
    report = kprune.check(pruned, "litert-x86")
    stored = kprune.export_tflite(pruned, tmp_path / "m.tflite").weights
    kernels = [weight for weight in weights_of(pruned) if weight.is_kernel]
    assert {layer.name for layer in report.layers} == {w.parents[0].name for w in kernels}
    for row in report.layers:
        found = {w.encoding for w in stored if row.name in w.name.split("/")}
        assert found == {"dense" if row.verdict == "dense" else "sparse"}, row
        assert row.sparsity == pytest.approx(0.8, abs=0.1)
        assert row.reason


@on_tensorflow
def test_a_file_that_will_not_run(files):
    report = kprune.check(files / "convolution_after_mean.tflite", "litert-arm64")
    assert not report.ok
    (bad,) = [layer for layer in report.layers if layer.verdict == "will not run"]
    assert bad.name.startswith("conv_head")
    assert "is a 1x1 convolution after the spatial mean" in bad.reason
    assert "and Dense" in bad.advice
    assert "NOT FIT FOR IT" in str(report)
    assert kprune.check(files / "convolution_after_mean.tflite", "litert-x86").ok


@on_tensorflow
def test_a_file_that_computes_wrong_outputs(files):
    report = kprune.check(files / "same_depthwise.tflite", "litert-wasm")
    assert not report.ok
    (bad,) = [layer for layer in report.layers if layer.verdict == "computes wrong outputs"]
    assert "dw3" in bad.reason
    assert "uses `same` padding at stride 2" in bad.reason
    assert "ZeroPadding2D(1) + valid" in bad.advice


def test_why_not():
    report = kprune.check(model("plain", 0.62), "litert-wasm")
    reasons = " ".join(layer.reason for layer in report.layers)
    assert "of the cluster's 1x1 weights are zero, more than 66.7% are needed" in reasons
    report = kprune.check(model("asymmetric_stem"), "litert-wasm")
    assert "'stem' begins with padding ((0, 1), (0, 1)) at stride 2" in report.notes[0]
    assert "2 1x1 convolutions lose" in report.notes[0] or "1 1x1 conv" in report.notes[0]
    assert "kprune.prepare" in report.notes[0]
    report = kprune.check(model("late_batch_normalization", 0.3), "litert-wasm")
    assert report.ok
    assert any("(BatchNormalization)" in note for note in report.notes)


@pytest.mark.parametrize(
    ("sparsity", "x86", "wasm"),
    [(0.5, "slower", "slower"), (0.8, "faster", "slower"), (0.95, "faster", "faster")],
)
def test_blocks(sparsity, x86, wasm):
    built = keras.Sequential([keras.Input((64,)), layers.Dense(48)])
    blocks = np.random.default_rng(0).permutation(16 * 48).reshape(16, 48) >= sparsity * 16 * 48
    built.layers[0].kernel.assign(built.layers[0].kernel * np.repeat(blocks, 4, axis=0))
    for target, expected in (("litert-x86", x86), ("litert-wasm", wasm)):
        (layer,) = kprune.check(built, target).layers
        assert layer.verdict == f"sparse and {expected}"
    zero(built.layers[0].kernel, 0.99)


def test_targets_are_data_with_sources():
    for target in TARGETS.values():
        assert get_target(target.name) is target
        assert all(rule.source and 0 <= rule.more_than < 1 for rule in target.rules)
    with pytest.raises(ValueError, match=r"litert-arm64.*litert-wasm.*Received: 'litert-arm'"):
        kprune.check(model("plain"), "litert-arm")


def test_what_cannot_be_checked(tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    own(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="subclassed"):
        kprune.check(own, "litert-wasm")
    with pytest.raises(ValueError, match=r"runs \.tflite files"):
        kprune.check(tmp_path / "m.onnx", "litert-wasm")
    with pytest.raises(ValueError, match=r"\.tflite or \.onnx"):
        kprune.check(tmp_path / "m.h5", "litert-wasm")
    with pytest.raises(FileNotFoundError):
        kprune.check(tmp_path / "m.tflite", "litert-wasm")
    with pytest.raises(TypeError):
        kprune.check(3, "litert-wasm")


@on_tensorflow
def test_command(files, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["check", *map(str, arguments)])

    assert run(files / "plain.tflite", "--target", "litert-wasm").exit_code == 0
    facts = tmp_path / "c.json"
    bad = run(files / "convolution_after_mean.tflite", "--target", "litert-wasm", "--json", facts)
    assert bad.exit_code == 2
    assert json.loads(facts.read_text())["ok"] is False
    assert run(files / "plain.tflite", "--target", "litert-riscv").exit_code == 1
    keras_file = tmp_path / "m.keras"
    model("plain").save(keras_file)
    assert run(keras_file, "--target", "litert-arm64").exit_code == 0


def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype="float32"), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1, 4]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight])
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (layer,) = kprune.check(path, "onnxruntime").layers
    assert (layer.name, layer.sparsity, layer.verdict) == ("w", 0.75, "dense")
    for data in (b"", b"\x00" * 100, path.read_bytes()[:-30]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"m\.onnx' is damaged"):
            kprune.check(path, "onnxruntime")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/dev/zero")
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx.*'w' is stored in another file"):
        kprune.check(path, "onnxruntime")


def refuses_or_reports(path):
    """A damaged file gives an error that names it, or a report, soon and in little memory."""
    start = time.process_time()
    tracemalloc.start()
    problem = None
    try:
        kprune.check(path, "litert-wasm")
    except ValueError as error:
        problem = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert problem is None or str(path) in problem
    assert peak < 50e6
    assert time.process_time() - start < 30


@on_tensorflow
@pytest.mark.parametrize("length", [0, 3, 7, 8, 100, -1, -100, -4000])
def test_truncated_files(length, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(as_it_is("plain")[:length])
    refuses_or_reports(path)


@on_tensorflow
@settings(max_examples=100)
@given(data=st.data())
def test_damaged_files(data, tmp_path_factory):
    blob = bytearray(as_it_is("plain"))
    for _ in range(data.draw(st.integers(1, 8))):
        # Damage to the tables, at both ends of the file, does more than damage to the weights.
        at = data.draw(st.integers(0, 1500)) * data.draw(st.sampled_from([1, -1]))
        blob[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"
    path.write_bytes(blob)
    refuses_or_reports(path)
