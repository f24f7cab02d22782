"""The script that runs files in TensorFlow Lite Micro."""

import json

import keras
import pytest

from tests.helpers.scripts import fake_mnist, run

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_reproduce_tflm(tmp_path):
    fake_mnist(tmp_path)
    out, keep = tmp_path / "out.json", tmp_path / "files"
    keep.mkdir()
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 1, "--train-size", 600]
    done = run("reproduce_tflm.py", *arguments, "--keep", keep, "--network", "lenet-5")
    assert not done.stderr
    assert "lenet-5: files in TensorFlow Lite Micro, errors on 200 test" in done.stdout
    (result,) = json.loads(out.read_text())["results"]
    files = {each["file"]: each["report"] for each in result["files"]}
    assert {path.name: path.stat().st_size for path in keep.iterdir()} == {
        name: report["bytes"] for name, report in files.items()
    }
    dense, tables = (
        files["lenet-5-dense-float32.tflite"],
        files["lenet-5-clustered-codebook.tflite"],
    )
    assert tables["bytes"] < 0.2 * dense["bytes"]
    assert {w["encoding"] for w in tables["weights"]} <= {"4-bit table", "dense"}
