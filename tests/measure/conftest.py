import keras
import numpy as np
import pytest

from kprune.export import export_onnx, export_tflite
from tests.helpers.zoo import ZOO


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """One CNN, half of whose weights are zero, in all formats; and a fixed batch of 2."""

    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    model = ZOO["cnn"]()
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            value = np.array(variable)
            value[np.abs(value) < np.median(np.abs(value))] = 0
            variable.assign(value)
    model.save(folder / "cnn.keras")
    export_tflite(model, folder / "cnn.tflite", sparse=False)
    export_tflite(model, folder / "sparse.tflite", sparse=True)
    export_tflite(model, folder / "batch2.tflite", batch_size=2, sparse=False)
    export_onnx(model, folder / "cnn.onnx")
    return folder
