"""Quantized and sparse TFLite files of small trained models."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune import Pruning, QuantizationAware, strip_pruning
from kprune.export import ExportError, VerificationError, export_tflite
from kprune.formats.tflite.constants import tflite_constants
from kprune.graphs.sample_data import generate
from kprune.graphs.signature import describe
from kprune.graphs.weights import sparsity_of, weights_of
from kprune.training import fake_quantization
from tests.helpers.runtimes import SKIP, digits_cnn, needs_tensorflow, prune_by_hand, run_tflite
from tests.helpers.zoo import ZOO

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


@pytest.fixture(scope="module")
def trained(digits):
    x, y = digits
    model = digits_cnn()
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0)
    return model


def accuracy(path, x, y, name="input"):
    hits = 0
    for sample, label in zip(x, y):
        (output,) = run_tflite(path, {name: sample[None]}).values()
        hits += int(output.argmax() == label)
    return hits / len(y)


@pytest.mark.fast_for("int8-0.35-int8")
@pytest.mark.parametrize(
    ("quantize", "shrinks", "dtype"),
    [
        ("float16", 0.55, "float16"),
        ("dynamic", 0.35, "int8"),
        ("int8", 0.35, "int8"),
        ("int16x8", 0.35, "int8"),
    ],
)
def test_quantized_files_are_small_and_keep_accuracy(
    quantize, shrinks, dtype, trained, digits, tmp_path
):
    x, y = digits
    dense = export_tflite(trained, tmp_path / "dense.tflite")
    data = x[:200] if quantize.startswith("int") else None
    report = export_tflite(
        trained, tmp_path / "small.tflite", quantize=quantize, representative_data=data
    )
    assert report.bytes < shrinks * dense.bytes
    kinds = {weight.name.split("/")[-2]: weight.dtype for weight in report.weights}
    assert kinds["dense"] == kinds["conv2d_1"] == dtype
    assert report.top1_agreement >= 0.9
    held_out = slice(1500, None)
    keras_accuracy = float((trained(x[held_out]).numpy().argmax(1) == y[held_out]).mean())
    assert keras_accuracy > 0.8
    assert accuracy(report.path, x[held_out], y[held_out]) > keras_accuracy - 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "quantize"), [("lstm", "int8"), ("gru", "int16x8")])
def test_recurrent_layers_quantize_and_stay_as_they_were(kind, quantize, tmp_path):
    model = ZOO[kind]()
    data = np.random.default_rng(0).normal(size=(40, 10, 6))
    report = export_tflite(
        model, tmp_path / "m.tflite", quantize=quantize, representative_data=data
    )
    assert {weight.dtype for weight in report.weights} == {"int8"}
    assert report.outputs[0].rms_rel_diff < 0.05
    assert not any(getattr(layer, "unroll", False) for layer in model.layers)


def test_loops_that_would_crash_the_calibrator_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((None, 6)), layers.LSTM(4)])
    data = np.zeros((4, 5, 6))
    with pytest.raises(ExportError, match=r"(?i)unroll"):
        export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=data)


@pytest.mark.slow
def test_embedding_to_int8_but_not_to_int16x8(tmp_path):
    model = ZOO["embedding"]()
    ids = np.random.default_rng(0).integers(0, 50, (30, 12))
    report = export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=ids)
    assert {weight.dtype for weight in report.weights} == {"int8"}
    with pytest.raises(ExportError, match="quantize='int8'"):
        export_tflite(model, tmp_path / "n.tflite", quantize="int16x8", representative_data=ids)
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def test_wrong_ranges_are_caught_by_verification(trained, digits, tmp_path):
    x, _ = digits
    with pytest.raises(VerificationError, match=r"root mean square.*top-1 agreement"):
        export_tflite(
            trained,
            tmp_path / "m.tflite",
            quantize="int8",
            representative_data=x[:50] * 0.01,
            inputs=x[:50],
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tolerance_can_be_set(trained, tmp_path):
    with pytest.raises(VerificationError, match="at most 1e-09 is allowed"):
        export_tflite(trained, tmp_path / "m.tflite", quantize="float16", tolerance=1e-9)
    assert export_tflite(trained, tmp_path / "m.tflite", quantize="float16", tolerance=0.5)


def four_by_one_blocks(weight, sparsity=0.8):
    scores = np.abs(weight).reshape(len(weight) // 4, 4, -1).sum(1)
    return weight * np.repeat(scores >= np.quantile(scores, sparsity), 4, axis=0)


@pytest.fixture(scope="module")
def wide():
    model = keras.Sequential(
        [
            keras.Input((10, 10, 4)),
            layers.Conv2D(32, 1),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="blocks"),
            layers.Dense(8),
        ]
    )
    prune_by_hand(model, 0.8)
    return model


@pytest.mark.fast_for("None")
@pytest.mark.parametrize("quantize", [None, "float16"])
def test_sparse_encoding_is_smaller_and_read_back_exactly(quantize, wide, tmp_path):
    zeros = prune_by_hand(wide, 0.8)
    dense = export_tflite(wide, tmp_path / "dense.tflite", quantize=quantize, sparse=False)
    sparse = export_tflite(wide, tmp_path / "sparse.tflite", quantize=quantize, sparse=True)
    assert sparse.bytes < 0.5 * dense.bytes
    assert {weight.encoding for weight in dense.weights} == {"dense"}
    assert {weight.encoding for weight in sparse.weights} == {"sparse"}
    assert {weight.name: weight.sparsity for weight in sparse.weights} == pytest.approx(zeros)


@pytest.mark.slow
def test_sparse_blocks(wide, tmp_path):
    kernel = wide.get_layer("blocks").kernel
    dense = np.random.default_rng(0).normal(size=kernel.shape) / 32
    kernel.assign(four_by_one_blocks(dense))
    share = 1 - np.count_nonzero(kernel) / kernel.numpy().size
    report = export_tflite(wide, tmp_path / "m.tflite", sparse=True)
    (stored,) = [weight for weight in report.weights if weight.name.endswith("blocks/kernel")]
    assert (stored.encoding, stored.sparsity) == ("sparse", pytest.approx(share))
    # The converter writes this one so that LiteRT would read beyond its end: not in blocks, then.
    half = export_tflite(wide, tmp_path / "n.tflite", quantize="float16", sparse=True)
    (stored,) = [weight for weight in half.weights if weight.name.endswith("blocks/kernel")]
    assert (stored.encoding, stored.dtype) == ("sparse", "float16")
    assert stored.sparsity == pytest.approx(share)


def test_nothing_to_store_sparse_is_noted(tmp_path):
    report = export_tflite(ZOO["mlp"](), tmp_path / "m.tflite", sparse=True)
    assert any("no weight is stored sparse" in note for note in report.notes)


def in_order(values):
    """Sorted, as converters reorder axes, and relative, as they fold a BatchNormalization in."""
    return np.sort(values, axis=None) / np.abs(values).max()


KINDS = ["cnn", "separable", "grouped_conv", "conv1d", "lstm", "gru", "embedding", "attention"]


@pytest.mark.fast_for("cnn")
@pytest.mark.parametrize("kind", KINDS)
def test_quantization_aware_training_rounds_kernels_as_the_file_does(kind, tmp_path):
    model = ZOO[kind]()  # Its BatchNormalization is new, and scales all channels alike.
    prune_by_hand(model, 0.3)
    data = generate(model, describe(model), 30)
    path = tmp_path / "m.tflite"
    export_tflite(model, path, quantize="int8", representative_data=data, tolerance=1)
    constants = tflite_constants(path.read_bytes())
    found = [weight for weight in weights_of(model) if weight.is_kernel]
    assert found
    for weight in found:
        value, channels = weight.variable.value, fake_quantization._channels(weight)
        by_channel = fake_quantization.round_weight(value, channels)
        rounded = (by_channel if channels else fake_quantization.round_activation(value)).numpy()
        of_size = [c.values for c in constants if c.values.size == rounded.size]
        distances = [np.abs(in_order(each) - in_order(rounded)).max() for each in of_size]
        assert min(distances) < 1e-5, weight.name


@pytest.mark.slow
def test_pruning_with_quantization_aware_training_to_int8(trained, digits, tmp_path):
    x, y = digits
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    fit = {"x": x[:1500], "y": y[:1500], "verbose": 0}
    model.fit(**fit, epochs=8, callbacks=[Pruning(0.8)])
    tuned = model.fit(
        **fit,
        epochs=3,
        callbacks=[Pruning(0.8), QuantizationAware()],
        validation_data=(x[1500:], y[1500:]),
    )
    model = strip_pruning(model)
    report = export_tflite(
        model, tmp_path / "m.tflite", quantize="int8", representative_data=x[:200]
    )
    wanted = {w.name: sparsity_of([w]) for w in weights_of(model) if not w.reason}
    assert all(round(0.8, 2) == round(share, 2) for share in wanted.values())
    assert {weight.name: weight.dtype for weight in report.weights} == dict.fromkeys(wanted, "int8")
    for weight in report.weights:
        assert weight.sparsity >= wanted[weight.name]
    assert not any("left in float" in note for note in report.notes)
    # What validation in 8 bits said in `fit` holds for the file.
    said = tuned.history["val_accuracy"][-1]
    assert said > 0.8
    assert abs(accuracy(report.path, x[1500:], y[1500:], model.inputs[0].name) - said) < 0.02
