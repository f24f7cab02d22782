"""Scripts that measure what training and scans take."""

import importlib
import json

import keras
import numpy as np
import pytest

from tests.helpers.reference import tfmot
from tests.helpers.scripts import SCRIPTS, run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_training")


@pytest.mark.slow
def test_benchmark_scan(tmp_path):
    out = tmp_path / "out.json"
    done = run("benchmark_scan.py", "--rounds", 1, "--examples", 32, "--json", out)
    assert not done.stderr
    assert "10 layers x 5 levels" in done.stdout
    assert json.loads(out.read_text())["ratio"] > 0


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


@pytest.mark.slow
def test_benchmark_latency(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_LATENCY_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.json"
    options = ["--models", "conv1d", "--targets", "litert-x86", "--cuts", 2, "--json", out]
    done = run("benchmark_latency.py", *options)
    assert "Median error" in done.stdout
    report = json.loads(out.read_text())
    assert [row["model"] for row in report["rows"]] == ["conv1d"] * 2
    assert all(0 < row["predicted"] < 1.5 and row["notes"] == [] for row in report["rows"])
    assert report["litert-x86"] == report["median_error"] > 0


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
