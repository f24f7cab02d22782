"""On JAX and torch a child process converts; the reference stays in the user's backend."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.export import ExportError, export_onnx, export_tflite
from tests.export.runtimes import (
    fresh_inputs,
    keras_outputs,
    needs_tensorflow,
    prune_by_hand,
    run_onnx,
    run_tflite,
)
from tests.zoo import ZOO

pytestmark = pytest.mark.skipif(
    not needs_tensorflow, reason="TensorFlow converts in the same process"
)

FACTOR = 3.0


def shifted_relu(x):
    return ops.relu(x + 1) * FACTOR


class Shout(layers.Layer):
    def __init__(self, volume=2.0, **kwargs):
        super().__init__(**kwargs)
        self.volume = volume

    def call(self, x):
        return x * self.volume

    def get_config(self):
        return {**super().get_config(), "volume": self.volume}


def test_model_with_custom_parts(tmp_path):
    x = inputs = keras.Input((12, 12, 8))
    x = layers.Conv2D(16, 3, groups=4, activation=shifted_relu)(x)
    x = layers.GlobalMaxPooling2D()(Shout(0.5)(x))
    x = layers.Lambda(lambda t: t / FACTOR)(x)
    x = layers.Activation(lambda t: ops.gelu(t, approximate=False))(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    zeros = prune_by_hand(model)
    report = export_onnx(model, tmp_path / "m.onnx")
    arguments, feed = fresh_inputs(model, 3)
    (output,) = run_onnx(report.path, feed).values()
    np.testing.assert_allclose(output, keras_outputs(model, arguments)[0], rtol=1e-3, atol=1e-4)
    assert {weight.name: weight.sparsity for weight in report.weights} == pytest.approx(zeros)
    assert model.layers[-2].activation.__name__ == "<lambda>"


def test_subclassed_mixed_precision_sparse(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = ZOO["subclassed"]()
    zeros = prune_by_hand(model)
    report = export_tflite(model, tmp_path / "m.tflite", sparse=True)
    assert {weight.encoding for weight in report.weights} == {"sparse"}
    assert {weight.name: weight.sparsity for weight in report.weights} == pytest.approx(zeros)
    assert any("bfloat16" in note for note in report.notes)
    _, feed = fresh_inputs(model, 1)
    assert run_tflite(report.path, feed)["out"].shape == (1, 3)


def test_refusals_come_through(tmp_path):
    with pytest.raises(ExportError, match="batch_size=1"):
        export_tflite(ZOO["gru"](), tmp_path / "m.tflite", batch_size=None)
    assert list(tmp_path.iterdir()) == []


def test_objects_that_cannot_travel(tmp_path):
    import threading

    lock = threading.Lock()

    class Locked(layers.Layer):
        def call(self, x):
            with lock:
                return x * 2

    model = keras.Sequential([keras.Input((3,)), Locked()])
    with pytest.raises(ExportError, match="could not be sent along: Locked"):
        export_onnx(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
