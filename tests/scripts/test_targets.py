"""The script that tries every model on every target."""

import keras
import pytest

from tests.helpers.scripts import run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_try_targets(tmp_path):
    page = tmp_path / "targets.md"
    arguments = ["--model", "prune_once", "--target", "litert-x86", "--target", "tflm"]
    run("try_targets.py", *arguments, "--target", "ethos-u55-128", "--output", page)
    row = next(line for line in page.read_text().splitlines() if line.startswith("| prune_once"))
    runs = "runs (float32, .tflite)"
    assert row == f"| prune_once | {runs} | {runs} | compiled (int8, .tflite) |"
