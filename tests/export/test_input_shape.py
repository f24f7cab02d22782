"""Files with the sizes that `input_shape` fixes, and errors that say which to fix."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.export import ExportError, export_onnx, export_tflite
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from tests.helpers.dynamic_sizes import at_most_40, splice, u_net
from tests.helpers.runtimes import SKIP, needs_tensorflow

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)

EXPORTS = {"tflite": (export_tflite, LiteRT), "onnx": (export_onnx, OnnxRuntime)}
each_format = pytest.mark.parametrize("format", EXPORTS)


def sizes(path, format):
    """{input name: sizes without the batch} as the runtime reports them."""
    return {name: tuple(dims[1:]) for name, (dims, *_) in EXPORTS[format][1](path).inputs.items()}


@each_format
def test_sizes_are_fixed_in_the_file(format, tmp_path):
    model, path = u_net(), tmp_path / f"m.{format}"
    export, runtime = EXPORTS[format]
    report = export(model, path, batch_size=1, input_shape=(32, 48, 3))
    assert sizes(path, format) == {"input": (32, 48, 3)}
    assert not any("dynamic dimensions" in note for note in report.notes)
    x = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype("float32")
    (output,) = runtime(path)({"input": x}).values()
    np.testing.assert_allclose(output, model.predict(x, verbose=0), atol=1e-4)


@each_format
def test_some_stay_dynamic(format, tmp_path):
    left, right = keras.Input((None, 4), name="left"), keras.Input((None, 4), name="right")
    pooled = [layers.GlobalAveragePooling1D()(x) for x in (left, right)]
    model = keras.Model([left, right], layers.Dense(2)(layers.Concatenate()(pooled)))
    path = tmp_path / f"m.{format}"
    EXPORTS[format][0](model, path, input_shape={"right": (9, 4), "left": (None, 4)})
    assert sizes(path, format)["right"] == (9, 4)
    assert sizes(path, format)["left"][0] is None


@each_format
def test_what_is_left_dynamic_is_verified_at_a_size_that_the_model_accepts(format, tmp_path):
    report = EXPORTS[format][0](splice(), tmp_path / f"m.{format}")
    assert any("10001" in note for note in report.notes)
    report = EXPORTS[format][0](at_most_40(), tmp_path / f"n.{format}", input_shape=(40,))
    assert report.max_rel_diff <= 1e-4


@each_format
@pytest.mark.parametrize(
    ("input_shape", "message"),
    [
        ((500, 4), r"\(500, 4\).*Cropping1D.*accepts.*\(10001, 4\)"),
        ((20_000, 3), r"fixes dimension 2 of its input 'input' at 4.*\(20000, 3\)"),
        ((20_000,), r"must have 2 sizes.*Received: \(20000,\)"),
        ({"other": (20_000, 4)}, r"has not: \['other'\]"),
    ],
)
def test_bad_sizes_leave_nothing_behind(format, input_shape, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        EXPORTS[format][0](splice(), tmp_path / f"m.{format}", input_shape=input_shape)
    assert not list(tmp_path.iterdir())


@each_format
def test_a_subclassed_model_is_exported_at_another_size(format, tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3)

        def call(self, x):
            return keras.ops.mean(self.dense(x), axis=1)

    model = Own()
    model(keras.ops.ones((2, 5, 4)))
    path = tmp_path / f"m.{format}"
    EXPORTS[format][0](model, path, input_shape=(9, 4))
    assert list(sizes(path, format).values()) == [(9, 4)]


def test_an_error_says_in_one_line_which_dimensions_to_fix(tmp_path):
    photo = keras.Input((None, None, 3), name="photo")
    x = layers.UpSampling2D()(layers.Conv2D(8, 3, padding="same")(photo))
    model = keras.Model(photo, layers.Conv2D(2, 3)(x))
    with pytest.raises(
        ExportError, match=r"`input_shape=`.*dimensions 1 and 2 of 'photo'"
    ) as error:
        export_tflite(model, tmp_path / "m.tflite")
    assert "\n" not in str(error.value)
    export_tflite(model, tmp_path / "m.tflite", input_shape=(20, 30, 3))
    assert sizes(tmp_path / "m.tflite", "tflite") == {"photo": (20, 30, 3)}


def _hub_backbones():
    hub = pytest.importorskip("keras_hub").models
    sizes = {"vocabulary_size": 64, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    return {
        "gemma": lambda: hub.GemmaBackbone(**sizes, **heads, head_dim=8),
        "llama": lambda: hub.LlamaBackbone(**sizes, **heads),
        "t5": lambda: hub.T5Backbone(**sizes, num_heads=2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma", "llama", "t5"])
def test_transformers_of_keras_hub_become_tflite_with_their_length_fixed(name, tmp_path):
    model, path = _hub_backbones()[name](), tmp_path / "m.tflite"
    with pytest.raises(ExportError, match=r"input_shape=.*dimension 1 of '\w*token_ids'") as error:
        export_tflite(model, path)
    assert "\n" not in str(error.value)
    shape = {tensor.name: (12,) for tensor in model.inputs}
    assert export_tflite(model, path, input_shape=shape).max_rel_diff <= 1e-4
    assert sizes(path, "tflite") == shape
