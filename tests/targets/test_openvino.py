"""The target `openvino`: two formats, no sparse kernels, and words of its own."""

import keras
import pytest
from keras import layers

import kprune
from kprune.search import LatencyModel
from kprune.targets import TARGETS
from tests.helpers.runtimes import SKIP, needs_tensorflow


def mlp():
    return keras.Sequential([keras.Input((64,)), layers.Dense(64, "relu"), layers.Dense(8)])


def test_it_is_told_apart_from_onnx_runtime():
    found = {}
    for name in ("openvino", "onnxruntime"):
        (one, _) = kprune.check(mlp(), name).layers
        assert one.verdict == "dense"
        found[name] = one.reason
    assert found["openvino"].startswith("OpenVINO computes densely")
    assert found["onnxruntime"].startswith("ONNX Runtime has no sparse kernels")
    for why in found.values():
        assert why.endswith("only removing channels makes it faster")


def test_zeros_are_no_use_and_channels_are():
    with pytest.raises(ValueError, match=r"openvino has no use for zeros.*prune_channels"):
        kprune.Pruning(0.5, target="openvino")
    chosen = kprune.for_target(mlp(), "openvino", channels=0.5)
    assert chosen.channels
    assert kprune.prepare(mlp(), "openvino")[1].changes == []


def test_no_export_must_be_fit_for_it_unless_it_is_named():
    assert not TARGETS["openvino"].always
    assert TARGETS["openvino"].formats == ("onnx", "tflite")
    with pytest.raises(ValueError, match=r"'onnxruntime' does not run \.tflite files"):
        kprune.export_tflite(mlp(), "never.tflite", target="onnxruntime")


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_an_outlook_speaks_of_it(tmp_path):
    model = mlp()
    kernel = model.layers[0].kernel
    kernel.assign(keras.ops.where(keras.ops.abs(kernel) < 0.12, 0.0, kernel))
    with pytest.warns(kprune.export.NotFasterWarning, match="on openvino: OpenVINO computes"):
        report = kprune.export_tflite(model, tmp_path / "m.tflite", target="openvino")
    assert [one.target for one in report.outlooks] == ["openvino"]


def test_a_budget_in_latency_says_what_to_do_instead():
    with pytest.raises(ValueError, match=r"Operators are timed in .*OpenVINO.*kprune\.optimize"):
        LatencyModel(mlp(), "openvino")
    with pytest.raises(ValueError, match=r"Operators are timed in .*OpenVINO.*kprune\.optimize"):
        kprune.prune_channels(mlp(), latency=0.5, target="openvino")
