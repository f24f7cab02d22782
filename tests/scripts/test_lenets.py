"""Scripts that train LeNets on MNIST."""

import importlib
import json

import keras
import pytest

from tests.helpers.scripts import SCRIPTS, fake_mnist, run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_reproduce_mnist(tmp_path):
    fake_mnist(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 2, "--seeds", 1]
    done = run("reproduce_mnist.py", *arguments, "--model", "lenet-300-100", "--train-size", 2000)
    assert not done.stderr
    assert "Han et al." in done.stdout
    report = json.loads(out.read_text())
    assert report["error_on"] == "200 test images"
    (result,) = report["results"]
    (only,) = result["runs"]
    assert (only["weights"], only["zeros"]) == (266_200, round(0.92 * 266_200))
    assert [layer["weights"] for layer in only["layers"]] == [235_200, 30_000, 1_000]
    assert result["dense_error"] == only["dense_error"] < 0.2
    assert result["pruned_error"] == only["pruned_error"] < 0.5


@pytest.mark.slow
def test_reproduce_edge(tmp_path):
    fake_mnist(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 2, "--seeds", 1, "--validate"]
    arguments += ["--train-size", 2000, "--ratio", 20, "--model", "lenet-300-100"]
    done = run("reproduce_edge.py", *arguments)
    assert not done.stderr
    assert "Sparse VD" in done.stdout
    report = json.loads(out.read_text())
    assert report["error_on"] == "5,000 validation images"
    (result,) = report["results"]
    (only,) = result["runs"]
    assert sum(only["left"]) == round(266_200 / 20)
    assert result["errors"] == only["errors"]
    assert result["errors"]["dense"] < 0.2


@pytest.mark.slow
def test_reproduce_compression(tmp_path):
    fake_mnist(tmp_path)
    out, keep = tmp_path / "out.json", tmp_path / "files"
    keep.mkdir()
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 2, 1, "--seeds", 1]
    arguments += ["--train-size", 2000, "--sparsity", 0.95, "--clusters", 8, "--keep", keep]
    done = run("reproduce_compression.py", *arguments, "--model", "lenet-300-100")
    assert not done.stderr
    assert "Han et al." in done.stdout
    report = json.loads(out.read_text())
    assert report["error_on"] == "200 test images"
    (result,) = report["results"]
    (only,) = result["runs"]
    (file,) = keep.iterdir()
    assert only["file_bytes"] == file.stat().st_size == only["report"]["gzipped_bytes"]
    assert result["ratio"] == only["ratio"] == 4 * 266_610 / only["file_bytes"] > 30
    weights = only["report"]["export"]["weights"]
    assert [weight["shape"] for weight in weights] == [[300, 784], [100, 300], [10, 100]]
    assert all(weight["dtype"] == "int8" and weight["values"] <= 8 for weight in weights)
    assert result["error"] == only["error"] < 0.5


@pytest.mark.slow
def test_reproduce_variational(tmp_path):
    fake_mnist(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--epochs", 4, "--train-size", 5000]
    done = run("reproduce_variational.py", *arguments, "--validate", "--initial-log-sigma2", -7)
    assert not done.stderr
    assert "Molchanov et al." in done.stdout
    report = json.loads(out.read_text())
    assert report["error_on"] == "5,000 validation images"
    (only,) = report["runs"]
    assert only["weights"] == 266_200
    assert only["left"] == sum(layer["left"] for layer in only["layers"])
    assert only["compression"] == 266_200 / only["left"] > 2
    assert only["error"] < 0.3


def test_lenet_5_is_caffes(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("reproduce_mnist")
    assert script.build(script.Name.CNN, 0.5).count_params() == 431_080
    assert script.build(script.Name.MLP, 0.2).count_params() == 266_610
