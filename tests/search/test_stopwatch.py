"""Times are those of the target's runtime where it is here, and estimates where it is not."""

import importlib.util
import platform

import keras
import pytest

import kprune
from kprune.measure import benchmark
from kprune.search import stopwatch as stopwatch_file
from kprune.search.stopwatch import Stopwatch, estimated
from kprune.targets.target import get_target
from tests.helpers import ethos


def exported(path, units=8):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(units)])
    return kprune.export_tflite(model, path)


def test_a_runtime_that_is_here_is_timed(tmp_path):
    path = tmp_path / "m.onnx"
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    kprune.export_onnx(model, path)
    stopwatch = Stopwatch(get_target("onnxruntime"))
    assert stopwatch.measures
    assert "ONNX Runtime" in stopwatch.about
    seconds, speedup = stopwatch.compare(path, path)
    assert 0 < seconds < 1
    assert speedup > 0


def test_openvino_is_timed_in_openvino_or_estimated_without_it(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    path = tmp_path / "m.onnx"
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    kprune.export_onnx(model, path)
    asked = []

    def measured(files, **options):
        report = benchmark(files, **options)
        asked.extend(row.runtime for row in report)
        return report

    monkeypatch.setattr(stopwatch_file, "benchmark", measured)
    stopwatch = Stopwatch(get_target("openvino"))
    assert stopwatch.measures
    assert "OpenVINO" in stopwatch.about
    assert stopwatch.compare(path, path)[0] > 0
    assert asked == ["OpenVINO", "OpenVINO"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    stopwatch = Stopwatch(get_target("openvino"))
    assert not stopwatch.measures
    assert 'pip install "kprune[openvino]"' in stopwatch.about


def test_another_processor_is_estimated(monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    for name in ("litert-x86", "litert-arm64"):
        stopwatch = Stopwatch(get_target(name))
        assert not stopwatch.measures
        assert "this machine is riscv64" in stopwatch.about
    assert Stopwatch(get_target("onnxruntime")).measures
    report = exported(tmp_path / "m.tflite")
    assert estimated(report, 50, 100) == 2
    assert estimated(report, None, 100) == 1


@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_names_of_one_processor(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert Stopwatch(get_target("litert-x86")).measures
    assert not Stopwatch(get_target("litert-arm64")).measures


def test_without_a_browser_times_in_it_are_estimated(monkeypatch, tmp_path):
    monkeypatch.setenv("KPRUNE_BROWSER", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    stopwatch = Stopwatch(get_target("litert-wasm"))
    assert not stopwatch.measures
    assert "Chromium" in stopwatch.about or "browser" in stopwatch.about


@ethos.needs_vela
def test_vela_tells_times_for_an_ethos_u():
    watch = Stopwatch(get_target(ethos.TARGET))
    assert watch.measures
    assert not watch.real
    assert watch.about.startswith("estimated by Vela")
    seconds, ratio = watch.compare(ethos.exported(0.0)[0], ethos.exported(0.9)[0])
    assert ratio > 1.3
    assert seconds < 1e-3
    with pytest.raises(ValueError, match="times whole files"):
        kprune.search.LatencyModel(ethos.small(), ethos.TARGET)
