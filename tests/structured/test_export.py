"""Pruned models export like any other."""

import keras
import numpy as np
import pytest

import kprune
from tests.helpers.masking import outputs, randomize
from tests.helpers.topologies import TOPOLOGIES

pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the formats are tested in tests/export", allow_module_level=True)


@pytest.fixture(scope="module", params=["resnet", "mobilenet_v2"])
def pruned(request):
    model = TOPOLOGIES[request.param]()
    randomize(model)
    return kprune.prune_channels(model, channels=0.6, round_to=2, min_channels=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")


@pytest.mark.fast_for("mobilenet_v2-None")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_pruned_model_runs_in_litert(pruned, images, tmp_path, quantize):
    data = None if quantize is None else images
    path = tmp_path / "small.tflite"
    report = kprune.export_tflite(pruned, path, quantize=quantize, representative_data=data)
    assert path.stat().st_size == report.bytes
    largest = 1e-4 if quantize is None else 0.1
    assert report.outputs[0].rms_rel_diff < largest
    kinds = {weight.dtype for weight in report.weights if len(weight.shape) == 4}
    assert kinds == {"float32" if quantize is None else quantize}


@pytest.mark.fast_for("mobilenet_v2")
def test_pruned_model_runs_in_onnxruntime(pruned, images, tmp_path):
    import onnxruntime

    path = tmp_path / "small.onnx"
    kprune.export_onnx(pruned, path)
    session = onnxruntime.InferenceSession(str(path))
    (got,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(got, outputs(pruned, images)[0], 1e-4, 1e-4)
