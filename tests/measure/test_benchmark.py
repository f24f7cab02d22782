import importlib
import json
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from kprune.export import export_onnx, export_tflite
from kprune.measure import benchmark, flops, size, web, worker
from tests.helpers.dynamic_sizes import sliced
from tests.helpers.hostile import endless, onnx_file
from tests.helpers.zoo import ZOO

QUICK = {"rounds": 3, "warmup": 1}


@pytest.fixture(scope="module")
def report(files):
    return benchmark([files / n for n in ("cnn.keras", "sparse.tflite", "cnn.onnx")], **QUICK)


def test_every_format_runs_in_its_own_runtime(report):
    backend = keras.backend.backend()
    assert [r.runtime for r in report] == [f"Keras ({backend})", "LiteRT", "ONNX Runtime"]
    assert set(report.machine["runtimes"]) == {r.runtime for r in report}
    assert all(0 < r.p10 <= r.median <= r.p90 for r in report)
    assert report.rows[0].speedup == 1.0
    assert all(r.speedup > 0 for r in report)


def test_figures_are_those_of_the_files(report, files):
    for row in report:
        expected = size(row.path)
        assert (row.bytes, row.gzipped_bytes) == (expected.bytes, expected.gzipped_bytes)
        assert (row.parameters, row.nonzeros) == (expected.parameters, expected.nonzeros)
        assert row.flops == flops(files / "cnn.keras").total


def test_report_prints_whole_and_saves(report, tmp_path):
    text = str(report)
    assert all(name in text for name in ("cnn.keras", "sparse.tflite", "cnn.onnx", "LiteRT"))
    data = json.loads(json.dumps(report.to_dict()))
    assert [row["median"] for row in data["rows"]] == [row.median for row in report]
    report.plot(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ids_dicts_and_nested_inputs_are_made(tmp_path):
    model = ZOO["dict_io"]()
    model.save(tmp_path / "m.keras")
    export_tflite(model, tmp_path / "m.tflite")
    export_onnx(model, tmp_path / "m.onnx")
    rows = benchmark(sorted(tmp_path.iterdir()), threads=2, **QUICK).rows
    assert all(row.median > 0 for row in rows)


@pytest.mark.slow
def test_batch_size(files):
    names = ["batch2.tflite", "cnn.onnx", "cnn.keras"]
    report = benchmark([files / name for name in names], batch_size=2, **QUICK)
    assert {row.flops for row in report} == {flops(files / "cnn.keras", batch_size=2).total}
    with pytest.raises(ValueError, match=r"batch2\.tflite.*fixed batch of 2.*batch_size=None"):
        benchmark(files / "batch2.tflite", batch_size=1, **QUICK)


@pytest.mark.slow
def test_free_dimensions_need_a_size(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    model.save(tmp_path / "free.keras")
    export_onnx(model, tmp_path / "free.onnx")
    with pytest.raises(ValueError, match=r"free\.onnx.*input_shape.*free_dim"):
        benchmark(tmp_path / "free.onnx", **QUICK)
    both = [tmp_path / "free.onnx", tmp_path / "free.keras"]
    report = benchmark(both, free_dim=8, **QUICK)
    assert {row.flops for row in report} == {flops(model, free_dim=8).total}
    report = benchmark(both, input_shape=(8, 9, 3), **QUICK)
    assert {row.flops for row in report} == {flops(model, input_shape=(8, 9, 3)).total}
    for shape in ((8, 9, 4), (8, 9), {"x": (8, 9, 3)}):
        for file in both:
            with pytest.raises(ValueError, match=r"free\.(onnx|keras).*input_shape|at 3"):
                benchmark(file, input_shape=shape, **QUICK)


def test_a_keras_file_runs_at_a_size_that_its_model_accepts(tmp_path):
    sliced().save(tmp_path / "m.keras")
    (row,) = benchmark(tmp_path / "m.keras", **QUICK)
    assert row.flops == flops(sliced(), input_shape=(301, 4)).total
    with pytest.raises(ValueError, match=r"m\.keras.*\(300, 4\).*accepts.*\(301, 4\)"):
        benchmark(tmp_path / "m.keras", input_shape=(300, 4), **QUICK)


@pytest.mark.parametrize("suffix", [".keras", ".tflite", ".onnx"])
def test_a_damaged_file_is_one_error_that_names_it(files, tmp_path, suffix):
    data = (files / f"cnn{suffix}").read_bytes()
    for number, damaged in enumerate((data[: len(data) // 2], b"", bytes(5000))):
        path = tmp_path / f"bad{number}{suffix}"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"bad{number}\{suffix}"):
            benchmark([files / "cnn.onnx", path], **QUICK)


@pytest.mark.slow
def test_a_runtime_that_crashes_does_not_take_python_with_it(files, tmp_path, monkeypatch):
    script = tmp_path / "crash.py"
    script.write_text("import os, sys; print('last words', file=sys.stderr); os.abort()")
    monkeypatch.setattr(worker, "__file__", str(script))
    with pytest.raises(ValueError, match=r"cnn\.tflite took its runtime down.*last words"):
        benchmark(files / "cnn.tflite", **QUICK)


@pytest.mark.slow
def test_a_file_that_does_not_end_is_an_error_that_names_it(files, tmp_path):
    path = endless(tmp_path / "endless.onnx")
    with pytest.raises(ValueError, match=r"endless\.onnx did not run within 5 seconds"):
        benchmark(path, timeout=5, **QUICK)
    with pytest.raises(ValueError, match="`timeout` must be positive seconds"):
        benchmark(files / "cnn.onnx", timeout=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="memory is limited on Linux only")
def test_a_file_that_claims_too_much_memory_is_an_error_that_names_it(tmp_path):
    from onnx import helper

    path = onnx_file(
        tmp_path / "large.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, [1, 10**7, 10**7]
    )
    with pytest.raises(ValueError, match=r"large\.onnx could not be run: MemoryError"):
        benchmark(path, **QUICK)
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    path = onnx_file(tmp_path / "inside.onnx", nodes, {"shape": [10**7, 10**7]})
    with pytest.raises(ValueError, match=r"inside\.onnx could not be run: .*alloc"):
        benchmark(path, **QUICK)


@pytest.mark.slow
def test_the_browsers_reference_has_a_time_limit(files, tmp_path, monkeypatch):
    script = tmp_path / "sleep.py"
    script.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(worker, "__file__", str(script))
    with pytest.raises(ValueError, match=r"cnn\.tflite did not run within 0\.5 seconds"):
        web._reference(files / "cnn.tflite", seed=0, batch_size=1, timeout=0.5)


def test_a_missing_runtime_names_the_extra(files, tmp_path, monkeypatch):
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not here', name='onnxruntime')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match=r"cnn\.onnx needs onnxruntime.*kprune\[export\]"):
        benchmark(files / "cnn.onnx", **QUICK)


@pytest.mark.slow
def test_no_process_is_left_behind(files, tmp_path, monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    benchmark(files / "cnn.onnx", **QUICK)
    (tmp_path / "bad.tflite").write_bytes(b"nothing")
    with pytest.raises(ValueError):
        benchmark([files / "cnn.onnx", tmp_path / "bad.tflite"], **QUICK)
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)


def test_a_file_whose_flops_cannot_be_counted_is_measured_and_named(files, monkeypatch):
    def fails(*_):
        raise KeyError("an operator of tomorrow")

    monkeypatch.setattr(importlib.import_module("kprune.measure.benchmark"), "onnx_flops", fails)
    with pytest.warns(UserWarning, match=r"FLOPs of .*cnn\.onnx are not known: KeyError: .*morrow"):
        (row,) = benchmark(files / "cnn.onnx", **QUICK)
    assert row.flops is None
    assert row.median > 0


def test_bad_arguments(files, tmp_path):
    with pytest.raises(ValueError, match="at least one file"):
        benchmark([])
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        benchmark([files / "cnn.onnx", tmp_path / "none.onnx"])
    with pytest.raises(ValueError, match=r"\.keras, \.tflite, \.onnx.*model\.pb"):
        benchmark(tmp_path / "model.pb")
    for name, value in {"threads": 0, "batch_size": 1.0, "rounds": 0, "warmup": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            benchmark(files / "cnn.onnx", **{name: value})


@pytest.mark.parametrize(
    ("dtype", "quantized", "low", "high"),
    [("int32", False, 0, 1), ("int8", True, -128, 127), ("uint8", True, 0, 255)],
)
def test_integer_inputs(dtype, quantized, low, high):
    value = worker.random_input((4000,), dtype, np.random.default_rng(0), quantized)
    assert value.dtype == dtype
    assert (value.min(), value.max()) == (low, high)


def test_inputs_of_unknown_kinds_are_refused():
    with pytest.raises(worker.Refused, match="complex64"):
        worker.random_input((2,), "complex64", np.random.default_rng(0))
