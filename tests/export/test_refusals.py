"""Bad input: one clear error, and nothing left behind."""

import errno

import keras
import numpy as np
import pytest

import kprune
from kprune.export import ExportError, VerificationError, export_onnx, export_tflite, pipeline
from kprune.export.convert import convert
from tests.helpers.partly_built import Wrapper, rows
from tests.helpers.runtimes import SKIP, needs_tensorflow
from tests.helpers.zoo import ZOO

EXPORTS = {"tflite": export_tflite, "onnx": export_onnx}
each_format = pytest.mark.parametrize("format", EXPORTS)
on_tensorflow = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def refused(error, match, export, model, path, **arguments):
    with pytest.raises(error, match=match):
        export(model, path, **arguments)
    assert not path.parent.exists() or not [p for p in path.parent.rglob("*") if p.is_file()]


@on_tensorflow
@each_format
def test_a_model_that_was_never_called_around_parts_that_were_is_exported(format, tmp_path):
    model, path = Wrapper(), tmp_path / f"m.{format}"
    assert not model.built
    # The export compares its file's outputs with the model's.
    EXPORTS[format](model, path, inputs=[rows(8), rows(8) + 1])
    assert path.stat().st_size > 0


@each_format
def test_models_that_are_not_ready(format, tmp_path):
    export, path = EXPORTS[format], tmp_path / f"m.{format}"
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    refused(ValueError, "not built.*call it once", export, unbuilt, path)
    refused(TypeError, "Expected a `keras.Model`", export, keras.layers.Dense(2), path)
    pruned = ZOO["mlp"]()
    pruned.compile("adam", "mse")
    pruned.optimizer = kprune.PruningOptimizer(
        pruned.optimizer, schedule=kprune.ConstantSparsity(0.5, begin_step=0)
    )
    refused(ValueError, r"kprune\.strip_pruning\(model\)", export, pruned, path)


@on_tensorflow
def test_tf_keras_models(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    refused(
        TypeError, r"tf_keras \(Keras 2\).*set_weights", export_onnx, model, tmp_path / "m.onnx"
    )


def test_models_with_inputs_that_are_not_numbers(tmp_path):
    if needs_tensorflow:
        pytest.skip("strings are a dtype of TensorFlow's")
    inputs = keras.Input((1,), dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"])
    model = keras.Model(inputs, keras.layers.Embedding(3, 2)(lookup(inputs)))
    refused(ValueError, "numeric inputs", export_onnx, model, tmp_path / "m.onnx")


@each_format
def test_paths(format, tmp_path):
    export, model = EXPORTS[format], ZOO["mlp"]()
    refused(FileNotFoundError, "does not exist", export, model, tmp_path / "no" / f"m.{format}")
    refused(ValueError, f"must end in '.{format}'", export, model, tmp_path / "m.keras")
    (tmp_path / f"d.{format}").mkdir()
    refused(IsADirectoryError, "directory", export, model, tmp_path / f"d.{format}")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        export(model, tmp_path / "file" / f"m.{format}")


@each_format
def test_no_permission(format, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)
    refused(PermissionError, "write", EXPORTS[format], ZOO["mlp"](), tmp_path / f"m.{format}")


def test_options(tmp_path):
    model, tflite, onnx = ZOO["mlp"](), tmp_path / "m.tflite", tmp_path / "m.onnx"
    refused(
        ValueError,
        "must be one of.*Received: 'int2'",
        export_tflite,
        model,
        tflite,
        quantize="int2",
    )
    refused(ValueError, "sparse", export_tflite, model, tflite, sparse="yes")
    refused(ValueError, "batch_size", export_tflite, model, tflite, batch_size=0)
    refused(ValueError, "batch_size", export_onnx, model, onnx, batch_size=2.5)
    refused(ValueError, "at most 18.*opset=19", export_onnx, model, onnx, opset=19)
    for quantize in ("int8", "int16x8"):
        refused(
            ValueError,
            "needs `representative_data`",
            export_tflite,
            model,
            tflite,
            quantize=quantize,
        )
    for quantize in ("dynamic", "int8", "int16x8"):
        refused(
            ValueError,
            "sparse=True does not go with",
            export_tflite,
            model,
            tflite,
            quantize=quantize,
            representative_data=np.zeros((2, 20)),
            sparse=True,
        )


def test_a_model_built_for_another_batch_size(tmp_path):
    model = keras.Sequential([keras.Input(batch_shape=(4, 3)), keras.layers.Dense(2)])
    refused(ValueError, "batch_size=4", export_tflite, model, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((5, 19)), r"Expected shape: \(None, 20\). Received: \(5, 19\)"),
        (np.full((5, 20), np.nan), "NaN"),
        (np.zeros((0, 20)), "at least one"),
        (iter([]), "empty"),
        ([np.zeros((2, 7))], "Expected shape"),
        (np.array([["a"] * 20]), "numbers"),
    ],
)
def test_calibration_data(data, match, tmp_path):
    refused(
        ValueError,
        match,
        export_tflite,
        ZOO["mlp"](),
        tmp_path / "m.tflite",
        quantize="int8",
        representative_data=data,
    )


@each_format
def test_verification_inputs(format, tmp_path):
    export, path = EXPORTS[format], tmp_path / f"m.{format}"
    refused(
        ValueError, "`inputs` does not fit", export, ZOO["mlp"](), path, inputs=np.zeros((3, 4))
    )
    one = np.zeros((3, 8))
    refused(ValueError, "2 inputs: zeta.*alpha", export, ZOO["multi_io"](), path, inputs=[one])


def test_weights_that_are_not_finite(tmp_path):
    model = ZOO["mlp"]()
    model.layers[0].kernel.assign(np.full((20, 32), np.nan))
    refused(ExportError, "itself gives NaN", export_onnx, model, tmp_path / "m.onnx")


@on_tensorflow
@each_format
def test_operations_a_format_does_not_have(format, tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: keras.ops.erfinv(x / 9))(inputs))
    data = np.zeros((2, 3))
    refused(
        ExportError, "has.*Erfinv", EXPORTS[format], model, tmp_path / f"m.{format}", inputs=data
    )


def one_line(error):
    return len(str(error.value)) < 500 and "\n" not in str(error.value)


@on_tensorflow
def test_operations_that_only_tensorflow_itself_could_run_are_one_line(tmp_path):
    import tensorflow as tf

    def suppressed(x):
        return tf.image.combined_non_max_suppression(x[0][:, :, None], x[1], 5, 5)[0]

    boxes = keras.Input((20, 8))
    dense = [keras.layers.Dense(4)(boxes), keras.layers.Dense(3)(boxes)]
    model = keras.Model(boxes, keras.layers.Lambda(suppressed, output_shape=(5, 4))(dense))
    with pytest.raises(ExportError, match="no operator for CombinedNonMaxSuppression") as error:
        export_tflite(model, tmp_path / "m.tflite")
    assert one_line(error)


@on_tensorflow
def test_free_image_sizes_are_one_line(tmp_path):
    image = keras.Input((None, None, 3), name="photo")
    x = keras.layers.UpSampling2D()(keras.layers.Conv2D(8, 3, padding="same")(image))
    model = keras.Model(image, keras.layers.Conv2D(2, 3)(x))
    with pytest.raises(ExportError, match=r"Conv2D where sizes are left free.*'photo'") as error:
        export_tflite(model, tmp_path / "m.tflite")
    assert one_line(error)
    export_onnx(model, tmp_path / "m.onnx")


@each_format
@pytest.mark.parametrize("wrap", [lambda layer: layer, keras.layers.Bidirectional])
def test_layers_that_keep_a_state(format, wrap, tmp_path):
    inputs = keras.Input(batch_shape=(1, 5, 3))
    model = keras.Model(inputs, wrap(keras.layers.GRU(4, stateful=True, name="memory"))(inputs))
    match = r"state of .*memory.*stateful=False"
    refused(ExportError, match, EXPORTS[format], model, tmp_path / f"m.{format}", batch_size=1)


@on_tensorflow
def test_functions_compiled_by_xla_are_named(tmp_path):
    import tensorflow as tf

    compiled = tf.function(lambda x: x * 2, jit_compile=True)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Lambda(compiled)(inputs))
    refused(ExportError, "leave jit_compile out", export_onnx, model, tmp_path / "m.onnx")


def _broken(model, request):
    """Convert another model than the one asked for."""
    wrong = keras.models.clone_model(model)
    return convert(wrong, request)


@on_tensorflow
@each_format
def test_a_file_that_disagrees_is_not_kept(format, tmp_path, monkeypatch):
    model, path = ZOO["mlp"](), tmp_path / f"m.{format}"
    EXPORTS[format](model, path)
    kept = path.read_bytes()
    monkeypatch.setattr(pipeline.transport, "convert", _broken)
    with pytest.raises(
        VerificationError, match=r"relative difference of 'dense_1' is \d.*at most 0.0001"
    ):
        EXPORTS[format](model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == kept


@on_tensorflow
@each_format
def test_a_file_that_does_not_load_is_not_kept(format, tmp_path, monkeypatch):
    good = ZOO["mlp"]()

    def truncated(model, request):
        blob = convert(model, request)
        return blob if format == "onnx" else blob[: len(blob) // 2 * 2 - 700]

    monkeypatch.setattr(pipeline.transport, "convert", truncated)
    if format == "onnx":
        monkeypatch.setattr("kprune.export.onnx.ONNX.inspect", lambda *args: [])
        monkeypatch.setattr(pipeline.transport, "convert", lambda *args: b"not a model")
    else:
        monkeypatch.setattr("kprune.export.tflite.TFLite.inspect", lambda *args: [])
    refused(ExportError, "does not run in", EXPORTS[format], good, tmp_path / f"m.{format}")


def _disk_full(path, data):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


@on_tensorflow
def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.write_bytes", _disk_full)
    refused(ExportError, "No space left on device", export_onnx, ZOO["mlp"](), tmp_path / "m.onnx")


@on_tensorflow
@pytest.mark.parametrize("stage", ["pipeline.transport.convert", "pipeline._run"])
def test_interrupt_leaves_nothing(stage, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"kprune.export.{stage}", interrupt)
    refused(KeyboardInterrupt, "", export_onnx, ZOO["mlp"](), tmp_path / "m.onnx")


@each_format
def test_missing_packages_name_the_extra(format, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(
        ImportError, r"kprune\[export\]", EXPORTS[format], ZOO["mlp"](), tmp_path / f"m.{format}"
    )
