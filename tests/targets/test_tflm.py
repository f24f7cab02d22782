import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.search.stopwatch import Stopwatch
from kprune.targets.target import get_target
from kprune.targets.tflm_operators import TFLM_OPERATORS
from tests.helpers.runtimes import SKIP, needs_tensorflow, prune_by_hand

# Prints the operators of the schema that the interpreter finds, each tried in a fork, as it may
# end the process.
_TRY = """
import os, sys
from ai_edge_litert import schema_py_generated as schema
from tflite_micro import runtime
from kprune.formats.tflite.file import packed, parsed
from kprune.formats.tflite.single_operator import tflite_empty
for name, number in vars(schema.BuiltinOperator).items():
    if name.startswith("_"):
        continue
    model = parsed(tflite_empty())
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
    blob = packed(model)
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(outside, 2)
        try:
            runtime.Interpreter.from_bytes(blob, arena_size=100_000)
        finally:
            os._exit(0)
    os.close(outside)
    with os.fdopen(inside, errors="replace") as printed:
        if "Didn't find op" not in printed.read():
            print(name)
    os.waitpid(child, 0)
"""


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10, activation="gelu", name="head"),
        ]
    )


@pytest.mark.slow
def test_the_operators_are_those_of_the_package():
    pytest.importorskip("tflite_micro")
    done = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True)
    found = done.stdout.split()
    assert len(found) > 90, done.stderr[-2000:]
    assert {*found, "TFLM_DECODE"} == TFLM_OPERATORS


def test_zeros_are_of_no_use_and_what_helps_is_said():
    report = kprune.check(network(), "tflm")
    assert report.ok
    assert {layer.verdict for layer in report.layers} == {"dense"}
    for layer in report.layers:
        assert "TensorFlow Lite Micro has no sparse kernels: only removing channels" in layer.reason
        assert "WeightClustering" in layer.reason
    assert "ONNX" not in str(report)
    assert "ONNX Runtime has no sparse kernels" in get_target("onnxruntime").no_kernels
    with pytest.raises(ValueError, match=r"Nothing in .* would be faster on tflm.*channels=0\.5"):
        kprune.for_target(network(), "tflm")
    chosen = kprune.for_target(network(), "tflm", channels=0.5)
    assert chosen.channels == ["conv"]
    model = network()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"tflm has no use for zeros.*prune_channels.*Clustering"):
        model.fit(
            np.zeros((8, 8, 8, 3)), np.zeros((8, 10)), verbose=0,
            callbacks=[kprune.Pruning(0.8, target="tflm")],
        )  # fmt: skip


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantize": "float16"}, "has no kernels for float16"),
        ({"quantize": "dynamic"}, "has no hybrid kernels"),
        ({"sparse": True}, "reads no sparse weights"),
        ({}, "has no operator GELU"),
        ({"batch_size": None}, "TensorFlow Lite Micro takes fixed ones only"),
    ],
)
def test_a_file_that_does_not_run_there(tmp_path, options, reason):
    model = network()
    if "sparse" in options:
        prune_by_hand(model)
    kprune.export_tflite(model, tmp_path / "m.tflite", **options)
    report = kprune.check(tmp_path / "m.tflite", "tflm")
    assert not report.ok
    failing = [layer.reason for layer in report.layers if layer.verdict == "will not run"]
    assert any(reason in why for why in failing), failing
    assert "LiteRT.js" not in str(report)


def test_a_search_estimates_its_times():
    stopwatch = Stopwatch(get_target("tflm"))
    assert not stopwatch.measures
    assert stopwatch.about.startswith("estimated")
