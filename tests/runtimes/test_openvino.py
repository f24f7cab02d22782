"""OpenVINO beside the runtimes that the files were made for."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.export import export_onnx, export_tflite
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.runtimes.openvino import OpenVINO
from tests.helpers.zoo import ZOO

pytest.importorskip("openvino")
pytest.importorskip("ai_edge_litert")


def feeds_of(file):
    """Noise, or ids, for what a file takes."""
    rng, feeds = np.random.default_rng(0), {}
    for name, (dims, dtype, _) in file.inputs.items():
        shape = [size or 2 for size in dims]
        noise = rng.standard_normal(shape) if np.dtype(dtype).kind == "f" else rng.random(shape) > 0
        feeds[name] = noise.astype(dtype)
    return feeds


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        pytest.param("multi_io", ".tflite", id="multi_io-tflite"),
        pytest.param("multi_io", ".onnx", id="multi_io-onnx", marks=pytest.mark.slow),
        *(
            pytest.param(kind, suffix, id=f"{kind}-{suffix[1:]}", marks=pytest.mark.slow)
            for kind in ("lstm", "attention", "embedding", "dict_io")
            for suffix in (".tflite", ".onnx")
        ),
    ],
)
def test_it_has_the_names_and_outputs_of_the_files_own_runtime(kind, suffix, tmp_path):
    """Inputs and outputs that sort otherwise than they are declared come out in their places."""
    path = tmp_path / f"m{suffix}"
    keras.utils.set_random_seed(0)
    if suffix == ".tflite":
        export_tflite(ZOO[kind](), path)
        own = LiteRT(path)
    else:
        export_onnx(ZOO[kind](), path)
        own = OnnxRuntime(path)
    file = OpenVINO(path, threads=1)
    assert {n: (dims, np.dtype(t)) for n, (dims, t, _) in file.inputs.items()} == {
        n: (dims, np.dtype(t)) for n, (dims, t, _) in own.inputs.items()
    }
    feeds = feeds_of(own)
    expected, found = own(feeds), file(feeds)
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        np.testing.assert_allclose(found[name], output, rtol=1e-4, atol=1e-5)


def test_it_computes_in_float32_and_a_run_leaves_the_outputs_of_the_one_before(tmp_path):
    """By default it computes in bfloat16 where the processor can, which is 0.5% off."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((256,)), layers.Dense(256, "relu"), layers.Dense(64)])
    export_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((4, 256)).astype("float32")
    (name,), file = OnnxRuntime(tmp_path / "m.onnx").inputs, OpenVINO(tmp_path / "m.onnx")
    (first,) = file({name: x}).values()
    kept = first.copy()
    expected = keras.ops.convert_to_numpy(model(x))
    assert np.abs(first - expected).max() < 1e-5 * np.abs(expected).max()
    (second,) = file({name: 2 * x}).values()
    np.testing.assert_array_equal(first, kept)
    assert np.abs(second - first).max() > 0.1
    file.invoke()
