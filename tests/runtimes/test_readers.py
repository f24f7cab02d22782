"""What other runtimes do not read: by trying them, on files of each kind."""

import functools
import importlib.util
import os

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.runtimes import readers
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.runtimes.openvino import OpenVINO
from tests.helpers.runtimes import SKIP, needs_tensorflow

pytestmark = [
    pytest.mark.skipif(needs_tensorflow, reason=SKIP),
    pytest.mark.filterwarnings("ignore::kprune.export.NotFasterWarning"),
]
has_openvino = importlib.util.find_spec("openvino") is not None
IN_BLOCKS = "weights in 1x4 sparse blocks"


def mlp(block):
    """A Dense layer of 95% zeros."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="a"), layers.Dense(8)])
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    pattern = kprune.Block((4, 1)) if block else None
    kprune.prune_once(model, 0.95, x, "magnitude", pattern=pattern)
    return model, x


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Function from the kind of a file to (its report, its bytes)."""
    folder = tmp_path_factory.mktemp("readers")

    @functools.cache
    def make(kind):
        model, x = mlp(kind in ("blocks", "target"))
        path = folder / f"{kind}{'' if kind.endswith('onnx') else '.tflite'}"
        if path.suffix == ".onnx":
            report = kprune.export_onnx(
                model, path, sparse="auto" if kind == "sparse.onnx" else False
            )
        else:
            options = {
                "blocks": {"sparse": True},
                "target": {"target": "openvino"},
                "rows": {"sparse": True},
                "float16": {"quantize": "float16", "sparse": False},
                "dynamic": {"quantize": "dynamic"},
                "int8": {"quantize": "int8", "representative_data": x},
                "dense": {"sparse": False},
            }[kind]
            report = kprune.export_tflite(model, path, **options)
        return report, path.read_bytes()

    return make


def told(report):
    return " | ".join(note for note in report.notes if note.startswith("not read by"))


def test_the_report_says_which_runtimes_do_not_read_the_file(made):
    found = told(made("blocks")[0])
    assert "OpenVINO" in found
    assert "TensorFlow Lite Micro" in found
    assert f": {IN_BLOCKS} |" in found
    found = told(made("sparse.onnx")[0])
    assert found.startswith("not read by OpenVINO")
    assert found.endswith(": weights as sparse initializers")


@pytest.mark.slow
def test_of_other_files_it_says_what_is_so(made):
    assert told(made("rows")[0]).startswith("not read by TensorFlow Lite Micro")
    assert "OpenVINO" not in told(made("rows")[0])
    assert "float16" in told(made("float16")[0])
    assert "float activations" in told(made("dynamic")[0])
    assert {told(made(kind)[0]) for kind in ("int8", "dense", "m.onnx", "target")} == {""}


@pytest.mark.skipif(not has_openvino, reason="needs OpenVINO")
@pytest.mark.fast_for("blocks", "sparse.onnx")
@pytest.mark.parametrize(
    "kind",
    ["blocks", "target", "rows", "float16", "dynamic", "int8", "dense", "sparse.onnx", "m.onnx"],
)
def test_what_is_said_of_openvino_is_so(kind, made):
    report, blob = made(kind)
    if "OpenVINO" in told(report):
        with pytest.raises(RuntimeError):
            OpenVINO(blob)
        return
    if kind == "dynamic" and "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("OpenVINO, which hears it, has no such kernel without AVX2")
    file = OpenVINO(blob, threads=2)  # One thread computes int8 wrong: see docs/devices.md.
    (name,) = file.inputs
    x = np.random.default_rng(1).normal(size=(1, 64)).astype("float32")
    own = OnnxRuntime if kind.endswith("onnx") else LiteRT
    (expected,), (output,) = own(blob)({name: x}).values(), file({name: x}).values()
    assert np.abs(output - expected).max() < 0.05 * np.abs(expected).max()


def test_without_the_runtime_the_rule_says_it(made, monkeypatch):
    _, blob = made("blocks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (openvino, *_) = readers.unread(blob)
    assert openvino == "OpenVINO 2026.4.1"


@pytest.mark.skipif(not has_openvino, reason="needs OpenVINO")
def test_a_rule_that_no_longer_holds_says_nothing(made, monkeypatch):
    rule = readers.Rule("OpenVINO", "2020.1", "anything", lambda blob: True, "for a test")
    _, blob = made("blocks")
    monkeypatch.setattr(readers, "RULES", (rule,))
    assert readers.notes(tflite_empty()) == []
    ((name, what),) = readers.unread(blob).items()
    assert (name.partition(" ")[0], what) == ("OpenVINO", ["anything"])
    assert "2020.1" not in name


@pytest.mark.fast_for("blocks")
@pytest.mark.parametrize("kind", ["blocks", "sparse.onnx", "target", "rows", "int8", "m.onnx"])
def test_a_file_that_a_target_does_not_read_is_not_fit_for_it(kind, made):
    found = kprune.check(made(kind)[0].path, "openvino")
    assert found.ok == (kind not in ("blocks", "sparse.onnx"))
    if not found.ok:
        assert found.layers[0].verdict == "will not run"
        assert "OpenVINO" in found.layers[0].reason


@pytest.mark.slow
def test_loops_over_time(tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), layers.Bidirectional(layers.GRU(4))])
    report = kprune.export_onnx(model, tmp_path / "m.onnx")
    assert "loops over time" in told(report)
    assert not kprune.check(tmp_path / "m.onnx", "openvino").ok
    kprune.export_tflite(model, tmp_path / "m.tflite", target="openvino")
    assert kprune.check(tmp_path / "m.tflite", "openvino").ok
