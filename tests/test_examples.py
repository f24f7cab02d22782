"""examples/: each runs on real data, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("KPRUNE_DATA_DIR", ROOT.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
    ),
    pytest.mark.skipif(not DATA.is_dir(), reason="no data at hand"),
]


def run(example, *arguments):
    """Run an example on a few images for a few epochs; return what it prints and warns of."""
    command = [sys.executable, ROOT / "examples" / example, "--data-dir", DATA, *arguments]
    environment = os.environ | {"COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_early_stopping():
    printed, warned = run("early_stopping.py", "--epochs", 4, "--train-size", 512)
    found = re.findall(
        r"^(\S+): (\d+) of 4 epochs, sparsity (0\.\d+), test accuracy", printed, re.M
    )
    (plain, _, reached), (wrapped, _, sparse) = found
    assert (plain, wrapped) == ("EarlyStopping", "after_pruning(EarlyStopping)")
    assert float(sparse) == pytest.approx(0.9, abs=1e-4)
    assert float(reached) <= float(sparse)
    assert (float(reached) < 0.89) == ("less sparsity than was asked" in warned)


@pytest.mark.slow
def test_gan(tmp_path):
    printed, warned = run("gan.py", "--epochs", 4, "--train-size", 256, "--out", tmp_path)
    assert " UserWarning" not in warned
    assert "kprune: sparsity 0.8000 of 3 weights (asked: 0.8)" in printed
    assert "Exported" in printed
    assert (tmp_path / "generator.tflite").stat().st_size > 10_000
    assert (tmp_path / "digits.png").stat().st_size > 0


@pytest.mark.slow
def test_distillation():
    arguments = ["--epochs", 2, "--train-size", 512, "--seeds", 2, "--sparsity", 0.9]
    printed, _ = run("distillation.py", *arguments)
    for seed in range(2):
        shares = re.search(rf"seed {seed}: dense (\S+), pruned (\S+), distilled (\S+)", printed)
        assert min(map(float, shares.groups())) > 0.2
    assert "90.00%" in printed


@pytest.mark.slow
def test_transformer(tmp_path):
    printed, _ = run("transformer.py", "--epochs", 1, "--size", 512, "--out", tmp_path)
    assert "(TransformerBlock), with fewer channels" in printed
    share = float(re.search(r"with (0\.\d+) of the FLOPs", printed)[1])
    assert share == pytest.approx(0.5, abs=0.02)
    for name in ("dense.tflite", "small.tflite", "small.onnx"):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.slow
def test_prune_once(tmp_path):
    printed, _ = run("prune_once.py", "--epochs", 1, "--size", 4000, "--out", tmp_path)
    assert "pruned at once (obs)" in printed
    dense, pruned = map(float, re.findall(r"accuracy (0\.\d+) dense, (0\.\d+) with", printed)[0])
    assert pruned > dense - 0.1
    assert (tmp_path / "pruned.tflite").stat().st_size > 10_000


@pytest.mark.slow
def test_which_weights(tmp_path):
    arguments = ["--epochs", 1, "--train-size", 2000, "--sparsity", 0.9]
    printed, _ = run("which_weights.py", *arguments, "--out", tmp_path / "best.tflite")
    shares = {
        name: float(share) for share, name in re.findall(r"^(0\.\d{4})  (.+)$", printed, re.M)
    }
    assert len(shares) == 11
    assert shares["Magnitude, Global"] > shares["Random"]
    assert re.search(r" on the test set: 0\.\d+", printed)
    assert "90.00%" in printed


@pytest.mark.slow
def test_optimize(tmp_path):
    out = tmp_path / "out"
    arguments = ["--size", 2000, "--epochs", 4, "--tuning", 1, "--rounds", 2, "--max-drop", 1]
    printed, _ = run("optimize.py", *arguments, "--out", out)
    assert "Optimized for onnxruntime" in printed
    path = re.search(r"the model that (\S+) was made from: (0\.\d+)", printed)
    assert Path(path[1]).is_file()
    assert float(path[2]) > 0.2


@pytest.mark.slow
def test_half_latency(tmp_path):
    printed, _ = run("half_latency.py", "--size", 1000, "--epochs", 1, "--out", tmp_path)
    assert re.search(r"^by latency: \d\.\d+, test accuracy 0\.\d+", printed, re.M)
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "dense.onnx").stat().st_size


@pytest.mark.slow
def test_how_far(tmp_path):
    printed, _ = run("how_far.py", "--size", 2000, "--epochs", 4, "--out", tmp_path)
    zeros = re.search(r"^test accuracy 0\.\d+ dense, 0\.\d+ with (\d+\.\d)% zeros", printed, re.M)[
        1
    ]
    held = [float(share) for share in re.findall(r"'sparsity': (0\.\d+).*'held': True", printed)]
    assert float(zeros) == pytest.approx(100 * max(held), abs=0.1)
    assert (tmp_path / "pruned.tflite").stat().st_size > 10_000


@pytest.mark.slow
def test_for_a_target(tmp_path):
    printed, warned = run("for_a_target.py", "--size", 500, "--epochs", 1, "--out", tmp_path)
    assert "Warning" not in warned
    assert printed.count("sparse and faster") == 5
    assert re.search(r"on litert-arm64: about \d\.\dx as fast as dense", printed)


@pytest.mark.slow
def test_microcontroller(tmp_path):
    printed, _ = run("microcontroller.py", "--epochs", 3, "--out", tmp_path)
    assert "Vela" in printed
    assert "of memory in TensorFlow Lite Micro" in printed
    assert "4-bit table" in printed
    arrays = {path.name for path in tmp_path.iterdir() if path.suffix == ".cc"}
    assert arrays == {"tables.cc", "ethos_vela.cc"}
