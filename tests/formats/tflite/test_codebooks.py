import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.formats.tflite import codebooks
from kprune.formats.tflite.constants import tflite_constants
from kprune.training.clustering.weight_clustering import cluster_once, grid
from tests.helpers.runtimes import SKIP, fresh_inputs, needs_tensorflow, run_tflite

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def pruned(model, sparsity=0.8):
    """The model with zeros in its kernels, and statistics in its BatchNormalizations."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        value = np.array(variable)
        if len(variable.shape) > 1:
            value[rng.random(value.shape) < sparsity] = 0
        elif variable.name in ("gamma", "moving_mean"):
            value = rng.normal(size=value.shape)
        elif variable.name == "moving_variance":
            value = rng.uniform(0.5, 2, value.shape)
        variable.assign(value)
    return model


def dense_and_convolutions():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(5, depth_multiplier=2, name="depthwise"),
            layers.Conv2DTranspose(8, 3, strides=2, name="transposed"),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ]
    )


def batch_normalized():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(5, use_bias=False, name="depthwise"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 1, use_bias=False, name="point"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(16, use_bias=False, name="dense"),
            layers.BatchNormalization(),
        ]
    )


def sequences():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(60, 16, name="tokens"),
            layers.LSTM(8, return_sequences=True, name="lstm"),
            layers.Conv1D(16, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(8, name="head"),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "in_float"),
    [(dense_and_convolutions, []), (batch_normalized, []), (sequences, ["lstm"])],
)
def test_the_file_holds_codes_and_computes_what_keras_does(tmp_path, make, in_float):
    model = pruned(make())
    cluster_once(model, 8)
    plain = kprune.export_tflite(model, tmp_path / "plain.tflite", sparse=False)
    report = kprune.export_tflite(model, tmp_path / "codes.tflite", quantize="codebook")
    assert report.max_rel_diff < 1e-4
    assert report.bytes < plain.bytes
    assert report.gzipped_bytes < plain.gzipped_bytes
    kernels = {w.path: np.array(w) for w in model.weights if len(w.shape) > 1}
    assert {w.name for w in report.weights} == set(kernels)
    for weight in report.weights:
        value = kernels[weight.name]
        assert weight.sparsity == pytest.approx(1 - np.count_nonzero(value) / value.size)
        if any(name in weight.name for name in in_float):
            assert weight.dtype == "float32"
            assert any(weight.name in note for note in report.notes)
        else:
            assert weight.dtype == "int8"
            assert weight.encoding == "dense"
            assert 0 < weight.entropy < 3.2
    _, feed = fresh_inputs(model, 1)
    ours, plain = (run_tflite(tmp_path / f"{name}.tflite", feed) for name in ("codes", "plain"))
    for name, output in plain.items():
        np.testing.assert_allclose(ours[name], output, rtol=1e-4, atol=1e-5)


def test_codes_are_exactly_the_weights(tmp_path):
    model = pruned(dense_and_convolutions())
    cluster_once(model, 255)
    kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook")
    constants = tflite_constants((tmp_path / "m.tflite").read_bytes())
    found = {c.values.size: c for c in constants if c.dtype == "int8"}
    kernel = np.array(model.get_layer("head").kernel)
    _, codes = grid(kernel)
    constant = found[kernel.size]
    np.testing.assert_array_equal(constant.values.astype("float32").T, kernel)
    np.testing.assert_array_equal(constant.codes.T, codes)


def test_weights_that_are_not_shared_stay_float(tmp_path):
    model = pruned(dense_and_convolutions())
    cluster_once(model, 8, layers="head")
    report = kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook")
    dtypes = {w.name.split("/")[-2]: w.dtype for w in report.weights}
    assert dtypes == {
        "conv": "float32",
        "depthwise": "float32",
        "transposed": "float32",
        "head": "int8",
    }
    # A point that is off the grid by a rounding is off it.
    kernel = model.get_layer("head").kernel
    value = np.array(kernel)
    at = np.unravel_index(np.abs(value).argmin(), value.shape)
    value[at] += 1e-3
    kernel.assign(value)
    with pytest.raises(kprune.export.ExportError, match="No weight of the model"):
        kprune.export_tflite(model, tmp_path / "n.tflite", quantize="codebook")
    assert not (tmp_path / "n.tflite").exists()


def test_a_buffer_that_two_constants_share(tmp_path):
    shared = layers.Dense(20, name="shared")
    x = keras.Input((20,))
    model = pruned(keras.Model(x, shared(keras.ops.relu(shared(x)))))
    cluster_once(model, 8)
    report = kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook")
    assert {w.dtype for w in report.weights} == {"int8"}


def test_sparse_does_not_go_with_it(tmp_path):
    model = pruned(dense_and_convolutions())
    with pytest.raises(ValueError, match="sparse=True"):
        kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook", sparse=True)


def test_channels_with_scales_of_either_sign_and_none():
    rng = np.random.default_rng(0)
    kernel = rng.integers(-127, 128, (3, 3, 8, 16)).astype("int8")
    factors = rng.normal(size=16).astype("float32")
    factors[3] = 0
    folded = np.moveaxis(kernel * factors, -1, 0)
    scales, axis, codes = codebooks._per_channel(folded, [kernel])
    assert axis == 0
    along = scales.reshape(16, 1, 1, 1)
    np.testing.assert_allclose(along * codes * (factors != 0).reshape(along.shape), folded, 1e-6)
    assert codebooks._per_channel(folded + 0.01, [kernel]) is None


def test_weights_that_are_all_too_small_are_one_error_with_the_reason(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(12), layers.Dense(8)])
    cluster_once(model, 8)
    with pytest.raises(
        kprune.export.ExportError, match=r"fewer than 256 entries each.*leave quantize out"
    ):
        kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook")
    assert list(tmp_path.iterdir()) == []
