"""Scripts about what is done to trained networks."""

import json

import keras
import pytest

from tests.helpers.scripts import fake_mnist, run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_reproduce_quantization(tmp_path):
    fake_mnist(tmp_path)
    (tmp_path / "mnist.npz").rename(tmp_path / "fashion_mnist.npz")
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--seeds", 1, "--train-size", 1000]
    arguments += ["--epochs", 2, "--tuning", 1, "--width", 4, "--sparsity", 0.5]
    done = run("reproduce_quantization.py", *arguments)
    assert not done.stderr
    assert "at least 100.00%" in done.stdout
    report = json.loads(out.read_text())
    (only,) = report["runs"]
    assert only["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert only["int8: zeros kept"] >= 1
    assert report["means"] == {arm: only[arm] for arm in report["means"]}


@pytest.mark.slow
def test_reproduce_oneshot(tmp_path):
    fake_mnist(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 1, "--seeds", 1]
    done = run("reproduce_oneshot.py", *arguments, "--network", "lenet-300-100")
    assert "| 90% |" in done.stdout
    rows = json.loads(out.read_text())["rows"]
    errors = {row["method"]: row["error"] for row in rows if row["sparsity"] == 0.9}
    assert errors["obs"] <= errors["magnitude"]
