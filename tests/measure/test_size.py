import gzip

import keras
import numpy as np
import pytest

from kprune.measure import size


@pytest.mark.parametrize("name", ["cnn.keras", "cnn.tflite", "sparse.tflite", "cnn.onnx"])
def test_all_formats_hold_the_same_weights(files, name):
    model = keras.models.load_model(files / "cnn.keras")
    kernels = [np.array(v) for v in model.weights if len(v.shape) > 1]
    data = (files / name).read_bytes()
    found = size(files / name)
    assert found.bytes == len(data)
    assert found.gzipped_bytes == len(gzip.compress(data, 9, mtime=0))
    assert found.parameters == sum(kernel.size for kernel in kernels)
    assert found.nonzeros == sum(np.count_nonzero(kernel) for kernel in kernels)


def test_sparse_encoding_makes_the_file_smaller(files):
    assert size(files / "sparse.tflite").bytes < size(files / "cnn.tflite").bytes


@pytest.mark.parametrize("suffix", [".keras", ".tflite", ".onnx"])
def test_bad_files(files, tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"none{suffix}"):
        size(tmp_path / f"none{suffix}")
    for length in (0, 10, 1000):
        path = tmp_path / f"cut_{length}{suffix}"
        path.write_bytes((files / f"cnn{suffix}").read_bytes()[:length])
        if suffix == ".onnx" and length == 0:
            continue  # no bytes are an empty, valid graph
        with pytest.raises(ValueError, match=f"cut_{length}{suffix}"):
            size(path)


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.keras, \.tflite and \.onnx.*model\.h5"):
        size(tmp_path / "model.h5")
