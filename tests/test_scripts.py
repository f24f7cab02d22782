import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.helpers.reference import tfmot

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_training")


def fake_mnist(folder):
    """Images whose class can be seen: a bright bar at the class's place."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 12_000), ("test", 200)):
        labels = rng.integers(0, 10, size).astype("uint8")
        images = rng.integers(0, 60, (size, 28, 28)).astype("uint8")
        for i, label in enumerate(labels):
            images[i, 2 * label : 2 * label + 3] += 150
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / "mnist.npz", **arrays)


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


def fake_reviews(folder):
    """Reviews whose class can be seen: it is that of the characters."""
    rng = np.random.default_rng(0)
    arrays = {"vocabulary": np.array([chr(0x4E00 + i) for i in range(58)])}
    for part, size in (("train", 1000), ("test", 200)):
        labels = rng.integers(0, 2, size)
        characters = rng.integers(2, 30, (size, 96)) + 30 * labels[:, None]
        arrays |= {f"x_{part}": characters.astype("uint16"), f"y_{part}": labels}
    np.savez(folder / "review_sentiment.npz", **arrays)


@pytest.mark.slow
def test_benchmark_scan(tmp_path):
    out = tmp_path / "out.json"
    done = run("benchmark_scan.py", "--rounds", 1, "--examples", 32, "--json", out)
    assert not done.stderr
    assert "10 layers x 5 levels" in done.stdout
    assert json.loads(out.read_text())["ratio"] > 0


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
def test_reproduce_depth(tmp_path):
    fake_reviews(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--seeds", 1, "--no-latency"]
    done = run("reproduce_depth.py", *arguments, "--train-size", 800)
    assert not done.stderr
    assert "Blocks that stay" in done.stdout
    report = json.loads(out.read_text())
    assert report["accuracy_on"] == "200 test reviews"
    (only,) = report["runs"]
    assert len(only["blocks"]) <= 8
    for arm in ("pruned", "channels", "random", "scratch"):
        assert abs(only["flops"][arm] / only["flops"]["dense"] - 0.5) <= 0.03
    assert only["accuracy"]["dense"] > 0.9
    assert only["accuracy"]["pruned"] > 0.9


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


def test_lenet_5_is_caffes(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("reproduce_mnist")
    assert script.build(script.Name.CNN, 0.5).count_params() == 431_080
    assert script.build(script.Name.MLP, 0.2).count_params() == 266_610


@pytest.mark.slow
def test_benchmark_training(tmp_path):
    out = tmp_path / "out.json"
    sizes = ["--weights", "20k", "--batch-size", 4, "--frequency", 6, "--rounds", 2]
    sizes += ["--criteria", "Fisher,RigL", "--no-tfmot", "--mask-rounds", 0]
    done = run("benchmark_training.py", *sizes, "--json", out)
    assert not done.stderr
    assert "TFMOT is left out" in done.stdout
    report = json.loads(out.read_text())
    (training,) = report["training"]
    dense, pruned = (training["contenders"][name] for name in ("Keras, dense", "kprune"))
    assert dense["sparsity"] == 0
    assert pruned["sparsity"] == pytest.approx(0.9, abs=1e-3)
    for clock in ("wall", "cpu"):
        assert dense[clock]["update_step"] is None
        assert dense[clock]["ratio"] == 1
        assert pruned[clock]["update_step"] > 0
        assert len(pruned[clock]["ratios"]) == 2
    for name in ("kprune Fisher", "kprune RigL"):
        assert training["contenders"][name]["sparsity"] == pytest.approx(0.9, abs=1e-3)


class Pipe:
    """Asks for one step after the other, and looks at the masks after each."""

    def __init__(self, masks):
        self.masks, self.pruned, self.updates = masks, [], []

    def recv(self):
        return 1

    def send(self, times):
        ((wall, cpu, update),) = times
        assert wall > 0
        assert cpu > 0
        self.updates.append(update)
        self.pruned.append(sum((mask.numpy() == 0).sum() for mask in self.masks()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KPRUNE", "TFMOT"])
def test_masks_change_at_the_steps_that_are_timed_as_updates(benchmark, name):
    if name == "TFMOT":
        tfmot()
    training = benchmark.Training(getattr(benchmark, name), 1, 2, 4, 0.8, 3, False)

    def masks():
        if name == "KPRUNE":
            return training.model.optimizer.masks().values()
        return [w for w in training.model.weights if "mask" in w.name]

    pipe = Pipe(masks)
    training.serve(pipe)
    assert np.flatnonzero(pipe.updates).tolist() == [3, 7, 11]
    # The first step is not measured: kprune makes the update of step 0 in it.
    assert (np.diff(pipe.pruned) > 0).tolist() == pipe.updates[1:]
    assert training.result() == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KPRUNE", "TOP_K", "TFMOT"])
def test_mask_updates_are_of_the_same_mask(benchmark, name):
    if name == "TFMOT":
        tfmot()
    masks = benchmark.MaskUpdate(getattr(benchmark, name), side=32)
    assert masks.result() == pytest.approx({0.5: 512 / 1024, 0.9: 922 / 1024})


@pytest.mark.slow
@pytest.mark.parametrize("weights", [500_000, 1_000_000, 5_000_000])
def test_the_cnn_has_the_size_asked_for(benchmark, weights):
    width = benchmark._width(weights)
    assert benchmark.cnn(keras, width).count_params() == benchmark.cnn_size(width)
    assert benchmark.cnn_size(width) == pytest.approx(weights, rel=0.1)


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
