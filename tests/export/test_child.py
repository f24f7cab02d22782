"""On JAX and torch a child process converts; the reference stays in the user's backend."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.export import ExportError, export_onnx, export_tflite
from tests.helpers.runtimes import (
    fresh_inputs,
    keras_outputs,
    needs_tensorflow,
    prune_by_hand,
    run_onnx,
    run_tflite,
)
from tests.helpers.zoo import ZOO

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_refusals_come_through(tmp_path):
    with pytest.raises(ExportError, match="batch_size=1"):
        export_tflite(ZOO["gru"](), tmp_path / "m.tflite", batch_size=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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


def times(factor):
    def scaled(x):
        return x * factor

    return scaled


def twin(factor):
    class Twin(layers.Layer):
        def call(self, x):
            return x + factor

    return Twin


def relu(x):
    return ops.square(x)


@pytest.mark.slow
def test_each_of_one_name_arrives_as_itself(tmp_path):
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation=times(2.0))(x)
    x = layers.Dense(8, activation=times(-3.0))(x)
    x = layers.Dense(8, activation=relu)(x)  # Keras has one of that name
    x = layers.Lambda(times(0.5))(twin(1.0)()(twin(-7.0)()(x)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    before = json.dumps(keras.saving.serialize_keras_object(model))
    report = export_onnx(model, tmp_path / "m.onnx")
    arguments, feed = fresh_inputs(model, 3)
    (output,) = run_onnx(report.path, feed).values()
    (expected,) = keras_outputs(model, arguments)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)
    assert json.dumps(keras.saving.serialize_keras_object(model)) == before


SCRIPT = """
import sys
import keras, mine
from kprune.export import export_onnx
model = keras.Sequential([keras.Input((4,)), mine.Halve(), keras.layers.Dense(2)])
export_onnx(model, sys.argv[1])
assert "pickle" in sys.modules and not hasattr(sys.modules["pickle"], "TRAP")
"""
MINE = """
import keras

class Halve(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


@pytest.mark.slow
def test_it_imports_from_where_its_parent_does_and_from_nowhere_else(tmp_path):
    script, here = tmp_path / "script", tmp_path / "here"
    script.mkdir()
    here.mkdir()
    (script / "main.py").write_text(SCRIPT)
    (script / "mine.py").write_text(MINE)
    for name in ("pickle", "json", "keras", "mine"):
        (here / f"{name}.py").write_text(f"TRAP = open({str(tmp_path / 'trapped')!r}, 'w')")
    path = os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
    subprocess.run(
        [sys.executable, str(script / "main.py"), str(tmp_path / "m.onnx")],
        cwd=here,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    assert (tmp_path / "m.onnx").exists()
    assert not (tmp_path / "trapped").exists()
