"""The script that prunes a ResNet by kprune and by TFMOT."""

import json

import keras
import pytest

from tests.helpers.reference import tfmot
from tests.helpers.scripts import fake_mnist, run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_reproduce_tfmot(tmp_path):
    """And what is in the JSON is taken up."""
    tfmot()
    fake_mnist(tmp_path, "fashion_mnist")
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 3, "--seeds", 1]
    arguments += ["--train-size", 2000, "--sparsities", 0.8, "--arms", "TFMOT,global"]
    done = run("reproduce_tfmot.py", *arguments)
    assert not done.stderr
    runs = json.loads(out.read_text())["runs"]
    assert {run["arm"] for run in runs} == {"dense", "TFMOT", "global"}
    assert all(one["weights"] == 273_754 for one in runs)
    assert all(one["zeros"] == pytest.approx(one["sparsity"] or 0, abs=1e-3) for one in runs)
    assert "error on 200 test images" in done.stdout
    assert run("reproduce_tfmot.py", *arguments).stdout == done.stdout
