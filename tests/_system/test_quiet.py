"""Converters' chatter stays with us; importing and exporting print nothing."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import pytest

from kprune._system.quiet import quiet
from tests.helpers.runtimes import SKIP, needs_tensorflow


def test_both_levels_are_captured_and_restored(capfd):
    with quiet() as transcript:
        print("from Python")
        os.write(1, b"from C, to stdout\n")
        os.write(2, b"from C, to stderr\nI0000 00:00 chatter\n")
    assert capfd.readouterr() == ("", "")
    assert set(transcript.tail().splitlines()) == {
        "from Python",
        "from C, to stdout",
        "from C, to stderr",
    }
    print("again")
    os.write(2, b"again\n")
    assert capfd.readouterr() == ("again\n", "again\n")


def test_what_was_printed_before_an_error_is_kept():
    with pytest.raises(ValueError), quiet() as transcript:
        print("almost")
        raise ValueError
    assert transcript.tail() == "almost"


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )


@pytest.mark.skipif(not find_spec("jax"), reason="on TensorFlow, Keras itself imports it")
def test_import_brings_no_converter_along():
    heavy = ["tensorflow", "tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"]
    result = run(
        "import os, sys; os.environ['KERAS_BACKEND'] = 'jax'; import kprune.export;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_exports_print_nothing(tmp_path):
    result = run(
        "import sys, keras, kprune.export\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])\n"
        "model(keras.ops.ones((1, 4)))\n"
        "sys.stderr.write('BEGIN'); sys.stderr.flush()\n"
        f"kprune.export.export_tflite(model, {str(tmp_path / 'm.tflite')!r})\n"
        f"kprune.export.export_onnx(model, {str(tmp_path / 'm.onnx')!r})\n"
    )
    assert result.stdout == ""
    assert result.stderr.partition("BEGIN")[2] == ""
    assert keras.backend.backend() == "tensorflow"
