"""Whether a file's zeros are worth anything on a target: said at every export, and warned of."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import NotFasterWarning
from tests.helpers.runtimes import SKIP, needs_tensorflow, prune_by_hand
from tests.helpers.target_graphs import model

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def mlp(pattern=None, sparsity=0.9):
    keras.utils.set_random_seed(0)
    built = keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, "relu", name="a"), layers.Dense(8, name="b")]
    )
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    kprune.prune_once(built, sparsity, x, "magnitude", pattern=pattern)
    return built


def exported(built, path, export=kprune.export_tflite, **options):
    """Return the report, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = export(built, path, **options)
    return report, [str(one.message) for one in caught if one.category is NotFasterWarning]


def test_zeros_that_pay_nowhere_are_warned_of_in_one_line(tmp_path):
    report, (warned,) = exported(mlp(), tmp_path / "m.tflite")
    assert [one.target for one in report.outlooks] == ["litert-arm64", "litert-x86", "litert-wasm"]
    assert not any(one.is_faster for one in report.outlooks)
    assert "m.tflite make it no faster on litert-arm64, litert-x86, litert-wasm" in warned
    assert "on litert-arm64, a dense layer on vectors needs zeros in blocks" in warned
    assert "kprune.Pruning(0.9, target='litert-arm64')" in warned
    assert warned.endswith("; the report has the others.")
    assert "\n" not in warned
    last = str(report).split("Weights as stored")[0]
    assert "no faster than dense" in " ".join(last.split())


@pytest.mark.fast_for("litert-x86-0.5")
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("target", ["litert-x86", "litert-wasm"])
def test_what_is_advised_helps(sparsity, target, tmp_path):
    built = mlp(sparsity=sparsity)
    _, (warned,) = exported(built, tmp_path / "m.tflite", target=target)
    built.compile("sgd", "mse")
    x, y = np.zeros((32, 64), "float32"), np.zeros((32, 8), "float32")
    share, name = re.search(r"kprune\.Pruning\((0\.\d+), target='(.*)'\)", warned).groups()
    built.fit(x, y, 4, 2, verbose=0, callbacks=[kprune.Pruning(float(share), target=name)])
    built = kprune.strip_pruning(built)
    report, warned = exported(built, tmp_path / "m.tflite", target=target)
    assert not warned
    (only,) = report.outlooks
    assert only.gain > 1
    assert only.because == "2 of the 2 layers with zeros have a sparse kernel"
    assert report.targets == {target: only.gain} == report.to_dict()["targets"]


def test_faster_on_one_of_them_is_worth_it(tmp_path):
    report, warned = exported(mlp(kprune.Block((4, 1)), 0.8), tmp_path / "m.tflite")
    assert not warned
    faster = {one.target: one.is_faster for one in report.outlooks}
    assert faster == {"litert-arm64": True, "litert-x86": True, "litert-wasm": False}


def test_a_layer_in_the_way_is_named(tmp_path):
    built = model("same_depthwise", sparsity=0.5)
    report, (warned,) = exported(built, tmp_path / "m.tflite", target="litert-arm64")
    assert not report.outlooks[0].is_faster
    assert "more than 66.7% are needed; prune them further" in warned


def test_channels_where_no_zeros_help(tmp_path):
    keras.utils.set_random_seed(0)
    built = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(16, 3), layers.Flatten()])
    prune_by_hand(built, 0.8)
    _, (warned,) = exported(built, tmp_path / "m.tflite", target="litert-x86")
    assert "kprune.prune_channels" in warned
    report, (warned,) = exported(built, tmp_path / "m.onnx", kprune.export_onnx)
    assert "no faster on onnxruntime" in warned
    assert "kprune.prune_channels" in warned
    assert [one.target for one in report.outlooks] == ["onnxruntime"]
    report, warned = exported(built, tmp_path / "m.onnx", kprune.export_onnx, sparse="auto")
    assert not warned  # Smaller is what was asked.
    assert report.outlooks


def test_channels_that_wait_to_be_taken_out(tmp_path):
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(16, 3, activation="relu", use_bias=False)
    stack = [convolution, layers.Conv2D(8, 3), layers.Flatten()]
    built = keras.Sequential([keras.Input((8, 8, 2)), *stack])
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")
    kprune.prune_once(built, 0.5, x, pattern=kprune.Channels())
    for export, name in ((kprune.export_tflite, "m.tflite"), (kprune.export_onnx, "m.onnx")):
        _, (warned,) = exported(built, tmp_path / name, export)
        assert warned.endswith("whole channels are zero: kprune.shrink(model) takes them out.")


def test_a_file_that_is_slower_is_called_so(tmp_path):
    built = mlp(kprune.Block((4, 1)), 0.8)
    report, _ = exported(built, tmp_path / "m.tflite")
    said = {one.target: str(one) for one in report.outlooks}
    assert "1.5x slower than dense" in said["litert-wasm"]


def test_inputs_that_do_not_divide_into_blocks(tmp_path):
    keras.utils.set_random_seed(0)
    built = keras.Sequential([keras.Input((63,)), layers.Dense(32)])
    prune_by_hand(built, 0.9)
    _, (warned,) = exported(built, tmp_path / "m.tflite", target="litert-x86")
    assert "its 63 inputs do not divide into blocks of 4; removing channels" in warned


@pytest.mark.parametrize("quantize", ["int8", "dynamic"])
def test_of_quantized_files_the_report_alone_says_it(quantize, tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    data = {"representative_data": x} if quantize == "int8" else {}
    report, warned = exported(mlp(), tmp_path / "m.tflite", quantize=quantize, **data)
    assert not warned
    assert report.outlooks
    assert not any(one.is_faster for one in report.outlooks)


def test_dense_models_have_nothing_to_say(tmp_path):
    report, warned = exported(mlp(sparsity=0.1), tmp_path / "m.tflite")
    assert (report.outlooks, report.targets, warned) == ([], {}, [])
