"""Weights in 4 bits: small, accurate, their zeros kept, and read back right."""

import gzip
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.formats.tflite.constants import tflite_constants
from kprune.measure import size
from tests.helpers.runtimes import SKIP, digits_cnn, needs_tensorflow, prune_by_hand, run_tflite

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


@pytest.fixture(autouse=True)
def _quantizer():
    pytest.importorskip("ai_edge_quantizer")


@pytest.fixture(scope="module")
def pruned(digits):
    """An MLP with half of its weights zero, and trained so."""
    x, y = digits
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="x"),
            layers.Flatten(),
            layers.Dense(255, activation="relu"),
            layers.Dense(63, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0, callbacks=[kprune.Pruning(0.5)])
    return kprune.strip_pruning(model)


def accuracy(path, x, y, name):
    outputs = [next(iter(run_tflite(path, {name: one[None]}).values())) for one in x]
    return float((np.concatenate(outputs).argmax(1) == y).mean())


def test_dense_layers_take_an_eighth_and_keep_their_zeros(pruned, digits, tmp_path):
    x, y = digits
    path = tmp_path / "m.tflite"
    plain = kprune.export_tflite(pruned, tmp_path / "f.tflite", sparse=False)
    report = kprune.export_tflite(pruned, path, "int4", inputs=x[:100])
    assert {weight.dtype for weight in report.weights} == {"int4"}
    assert len(report.weights) == 3
    assert report.bytes < plain.bytes / 5  # Of a model this small scales take a sixth.
    for weight, before in zip(report.weights, plain.weights):
        assert weight.name == before.name
        assert weight.shape == before.shape
        assert weight.sparsity >= before.sparsity >= 0.49
        assert weight.values <= 15
    assert not any("zeros" in note for note in report.notes)
    counted = size(path)
    assert counted.parameters == 64 * 255 + 255 * 63 + 63 * 10
    stored = sum(np.count_nonzero(each.values) for each in tflite_constants(path.read_bytes()))
    assert counted.nonzeros == stored
    assert counted.gzipped_bytes == len(gzip.compress(path.read_bytes(), 9, mtime=0))
    here = pruned.evaluate(x[1500:], y[1500:], verbose=0, return_dict=True)["accuracy"]
    assert here > 0.8
    assert accuracy(path, x[1500:], y[1500:], "x") > here - 0.04
    assert len(kprune.check(path, "litert-x86").layers) == 3


def test_values_read_back_are_the_codes_times_their_scales(pruned, tmp_path):
    """By the rule itself: symmetric, one scale an output, the largest at seven of its units."""
    path = tmp_path / "m.tflite"
    kprune.export_tflite(pruned, path, "int4")
    found = {each.values.shape: each for each in tflite_constants(path.read_bytes())}
    for layer in pruned.layers[1:]:
        kernel = layer.kernel.numpy().T
        constant = found[kernel.shape]
        scale = np.abs(kernel).max(1, keepdims=True) / 7
        assert np.abs(constant.values - kernel).max() <= 0.51 * scale.max()
        assert np.all(constant.values[kernel == 0] == 0)
        assert constant.codes.min() >= -8
        assert constant.codes.max() == 7


@pytest.mark.slow
def test_what_has_no_such_kernel_is_named(digits, tmp_path):
    x, y = digits
    model = digits_cnn()
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0)
    prune_by_hand(model, 0.3)
    report = kprune.export_tflite(model, tmp_path / "m.tflite", "int4", inputs=x[:100])
    kinds = {weight.name.split("/")[-2]: weight.dtype for weight in report.weights}
    assert kinds == {"conv2d": "int8", "conv2d_1": "int8", "dense": "int4", "dense_1": "int4"}
    (note,) = (note for note in report.notes if "not in 4 bits" in note)
    assert "conv2d/kernel (int8)" in note
    assert "dense" not in note.split(":")[1]
    assert all(weight.sparsity > 0.29 for weight in report.weights)


def test_what_does_not_go_together_is_refused(pruned, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="sparse=True does not go with quantize='int4'"):
        kprune.export_tflite(pruned, path, "int4", sparse=True)
    with pytest.raises(ValueError, match="io='int8', quantize='int4'"):
        kprune.export_tflite(pruned, path, "int4", io="int8")
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    with pytest.raises(ImportError, match=r'pip install "kprune\[int4\]"'):
        kprune.export_tflite(pruned, path, "int4")
    assert list(tmp_path.iterdir()) == []
