"""Files in their runtimes, beside the Keras model that they were made from."""

import ast
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kprune.runtimes
from kprune.export import export_onnx, export_tflite
from kprune.measure import worker
from kprune.runtimes.keras import Keras
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.runtimes.openvino import OpenVINO
from tests.helpers.zoo import ZOO


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return ZOO["cnn"]()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("runtimes")
    model.save(folder / "m.keras")
    export_tflite(model, folder / "m.tflite", batch_size=None)
    export_onnx(model, folder / "m.onnx")
    return folder


@pytest.mark.parametrize(
    ("cls", "suffix"),
    [
        (LiteRT, ".tflite"),
        (OnnxRuntime, ".onnx"),
        (Keras, ".keras"),
        (OpenVINO, ".tflite"),
        (OpenVINO, ".onnx"),
    ],
)
def test_each_runs_at_any_batch_size_from_a_path_or_from_bytes(cls, suffix, model, folder):
    if cls is OpenVINO:
        pytest.importorskip("openvino")
    path = folder / f"m{suffix}"
    loaded = [cls(path, threads=1)] + ([] if cls is Keras else [cls(path.read_bytes())])
    for file in loaded:
        assert file.version
        for batch in (3, 1, 3):
            x = np.random.default_rng(batch).normal(size=(batch, 16, 16, 3)).astype("float32")
            expected = keras.ops.convert_to_numpy(model(x))
            if cls is Keras:
                output = file(x)
            else:
                ((name, (dims, dtype, quantized)),) = file.inputs.items()
                assert dims == [None, 16, 16, 3]
                assert (np.dtype(dtype), quantized) == (np.float32, False)
                (output,) = file({name: x, "of another file": x}).values()
            np.testing.assert_allclose(output, expected, atol=1e-5)
            again = file.run()
            again = again if cls is Keras else next(iter(again.values()))
            np.testing.assert_array_equal(again, output)


def test_a_batch_that_the_file_does_not_take_is_refused(model, tmp_path):
    pytest.importorskip("ai_edge_litert")
    export_tflite(model, tmp_path / "m.tflite", batch_size=2)
    file = LiteRT(tmp_path / "m.tflite")
    (name,) = file.inputs
    with pytest.raises(RuntimeError, match="resize dimension 0"):
        file({name: np.zeros((3, 16, 16, 3), "float32")})


@pytest.mark.parametrize("name", worker.RUNTIMES)
def test_a_worker_loads_a_runtime_without_the_package(name):
    """Importing kprune would bring Keras and its backend into each process that is timed."""
    cls, suffixes = worker.RUNTIMES[name]
    assert worker.runtime(name).__name__ == cls
    assert all(name in worker.RUNTIMES and suffix in worker.OWN for suffix in suffixes)
    path = Path(kprune.runtimes.__file__).parent / f"{name}.py"
    tree = ast.parse(path.read_text())
    everywhere = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in everywhere if node.module.startswith("kprune")]
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            first = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert first.partition(".")[0] in sys.stdlib_module_names
