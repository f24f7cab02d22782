"""From `fit` to files, in short: what is run on other versions of Keras."""

import keras
import numpy as np
import pytest

import kprune
from kprune import tfmot
from tests.helpers.runtimes import (
    SKIP,
    fresh_inputs,
    keras_outputs,
    needs_tensorflow,
    run_onnx,
    run_tflite,
)

X = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
Y = np.arange(32) % 3


def network():
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(16, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    skipped = x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(16, 3, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x + skipped)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def trained(model, *callbacks):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss)
    model.fit(X, Y, epochs=3, callbacks=list(callbacks), verbose=0)
    return model


def test_pruned():
    model = kprune.strip_pruning(trained(network(), kprune.Pruning(0.75)))
    kernel = keras.ops.convert_to_numpy(model.layers[1].kernel)
    assert np.mean(kernel == 0) == pytest.approx(0.75, abs=0.01)


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_exported(tmp_path):
    model = kprune.strip_pruning(trained(network(), kprune.Pruning(0.75)))
    arguments, feed = fresh_inputs(model, 1)
    (expected,) = keras_outputs(model, arguments)
    for export, run in ((kprune.export_tflite, run_tflite), (kprune.export_onnx, run_onnx)):
        path = tmp_path / export.__name__.replace("export_", "model.")
        export(model, path)
        (found,) = run(path, feed).values()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_clustered_and_fake_quantized():
    model = trained(network(), kprune.WeightClustering(4), kprune.QuantizationAware())
    kernel = keras.ops.convert_to_numpy(model.layers[1].kernel)
    assert len(np.unique(kernel)) <= 4


def test_cut():
    model = trained(network())
    small = kprune.prune_channels(model, flops=0.3)
    assert small.count_params() < model.count_params()
    assert np.isfinite(small.predict(X[:2], verbose=0)).all()


def test_wrapped(tmp_path):
    schedule = kprune.ConstantSparsity(0.5, 0)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(network(), schedule)
    trained(wrapped, tfmot.sparsity.keras.UpdatePruningStep())
    wrapped.save(tmp_path / "wrapped.keras")
    model = kprune.strip_pruning(keras.models.load_model(tmp_path / "wrapped.keras"))
    kernel = keras.ops.convert_to_numpy(model.layers[1].kernel)
    assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.01)
