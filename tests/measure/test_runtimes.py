"""One file in several runtimes, side by side."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kprune.cli import app
from kprune.measure import benchmark, worker

QUICK = {"rounds": 2, "warmup": 0}


def test_a_file_has_a_row_for_each_runtime_that_reads_it(files):
    pytest.importorskip("openvino")
    both = [files / "cnn.onnx", files / "cnn.tflite"]
    report = benchmark(both, runtimes=["litert", "openvino", "onnxruntime"], **QUICK)
    assert [(Path(row.path).name, row.runtime) for row in report] == [
        ("cnn.onnx", "OpenVINO"),
        ("cnn.onnx", "ONNX Runtime"),
        ("cnn.tflite", "LiteRT"),
        ("cnn.tflite", "OpenVINO"),
    ]
    assert set(report.machine["runtimes"]) == {"OpenVINO", "ONNX Runtime", "LiteRT"}
    assert all(row.median > 0 and row.speedup > 0 for row in report)
    assert len({row.flops for row in report}) == 1
    assert "latency of cnn.onnx in OpenVINO / this file's" in " ".join(str(report).split())


def test_runtimes_that_read_nothing_are_refused_by_name(files):
    with pytest.raises(ValueError, match=r"`runtimes` must be some of .*'openvino'.*'tensorrt'"):
        benchmark(files / "cnn.onnx", runtimes="tensorrt", **QUICK)
    with pytest.raises(ValueError, match=r"`runtimes` must be some of .*runtimes=\[\]"):
        benchmark(files / "cnn.onnx", runtimes=[], **QUICK)
    with pytest.raises(ValueError, match=r"cnn\.tflite is read by none of .*onnxruntime"):
        benchmark(files / "cnn.tflite", runtimes=["onnxruntime"], **QUICK)


@pytest.mark.slow
def test_on_the_command_line(files):
    pytest.importorskip("openvino")
    options = ["--runtime", "onnxruntime", "--runtime", "openvino", "--rounds", "2"]
    result = CliRunner().invoke(app, ["benchmark", str(files / "cnn.onnx"), *options])
    assert result.exit_code == 0, result.output
    assert "OpenVINO" in result.output
    assert "ONNX Runtime" in result.output
    result = CliRunner().invoke(app, ["benchmark", str(files / "cnn.onnx"), "--runtime", "x"])
    assert result.exit_code == 1
    assert "openvino" in result.output


def test_a_missing_runtime_names_the_extra(files, tmp_path, monkeypatch):
    """As on a machine without the package, which a worker then does not find either."""
    (tmp_path / "openvino.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'openvino'\", name='openvino')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match=r'cnn\.onnx needs openvino.*"kprune\[openvino\]"'):
        benchmark(files / "cnn.onnx", runtimes="openvino", **QUICK)


def test_other_outputs_than_the_own_runtimes_are_an_error(files, tmp_path, monkeypatch):
    """A runtime that computes something else is not timed."""
    home = Path(worker.__file__).parents[1]
    copy = tmp_path / "kprune"
    for folder in ("measure", "runtimes"):
        (copy / folder).mkdir(parents=True)
    shutil.copy(home / "measure" / "worker.py", copy / "measure")
    for name in ("onnxruntime", "openvino"):
        shutil.copy(home / "runtimes" / "onnxruntime.py", copy / "runtimes" / f"{name}.py")
    wrong = copy / "runtimes" / "openvino.py"
    text = wrong.read_text().replace("OnnxRuntime", "OpenVINO").replace("ONNX Runtime", "OpenVINO")
    returned = "return dict(zip(self._outputs, self._session.run(self._outputs, self._feeds)))"
    assert returned in text
    changed = "self._session.run(self._outputs, {n: 1 - a for n, a in self._feeds.items()})"
    wrong.write_text(text.replace(returned, f"return dict(zip(self._outputs, {changed}))"))
    monkeypatch.setattr(worker, "__file__", str(copy / "measure" / "worker.py"))
    with pytest.raises(ValueError, match=r"cnn\.onnx could not be measured in openvino: .*else"):
        benchmark(files / "cnn.onnx", runtimes=["onnxruntime", "openvino"], **QUICK)
    assert benchmark(files / "cnn.onnx", runtimes="onnxruntime", **QUICK).rows[0].median > 0


@pytest.mark.parametrize("broken", ["nan", "shape", "gone"])
def test_what_counts_as_something_else(broken):
    expected = {"y": np.linspace(-1, 1, 12).reshape(3, 4).astype("float32")}
    worker.check_outputs(expected, {"y": expected["y"] * 1.1}, "R")
    outputs = {
        "nan": {"y": np.where(expected["y"] > 0.9, np.nan, expected["y"])},
        "shape": {"y": expected["y"].T},
        "gone": {"z": expected["y"]},
    }[broken]
    with pytest.raises(worker.Refused, match="R "):
        worker.check_outputs(expected, outputs, "R")
