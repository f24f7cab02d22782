import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from kprune.cli import app
from tests.helpers.dynamic_sizes import sliced
from tests.helpers.zoo import ZOO

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "mlp.keras"
    ZOO["mlp"]().save(path)
    return path


def kprune(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_lists_the_commands():
    result = kprune("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("benchmark", "sparsity", "flops", "demo"))


def test_sparsity(model_file, tmp_path):
    result = kprune("sparsity", model_file, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    assert "dense/kernel" in result.output
    assert "no: rank below 2" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["sparsity"] == 0.0


def test_flops(model_file, tmp_path):
    result = kprune("flops", model_file, "--batch-size", 2, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    assert "3,200" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["total"] == 3200


def test_sizes_that_a_model_leaves_open(tmp_path):
    inputs = keras.Input((None, 4), name="dna")
    keras.Model(inputs, sliced()(inputs)).save(tmp_path / "m.keras")
    totals = []
    for options in ([], ["--input-shape", "301,4"], ["--input-shape", "dna=301,4"]):
        result = kprune("flops", tmp_path / "m.keras", *options, "--json", tmp_path / "out.json")
        assert result.exit_code == 0
        totals.append(json.loads((tmp_path / "out.json").read_text())["total"])
    assert totals == [totals[0]] * 3
    check = kprune("check", tmp_path / "m.keras", "--target", "litert-x86", *options)
    assert check.exit_code == 0
    for bad in (["300,4"], ["a,4"], ["301,4", "--input-shape", "301,4"], ["other=301,4"]):
        result = kprune("flops", tmp_path / "m.keras", "--input-shape", *bad)
        assert result.exit_code == 1
        assert "Received" in result.output or "(301, 4)" in result.output.replace("\n", " ")


@pytest.mark.slow
def test_benchmark_as_a_command_and_as_a_script(model_file, tmp_path):
    pytest.importorskip("onnxruntime")
    from kprune.export import export_onnx

    path = tmp_path / "mlp.onnx"
    export_onnx(ZOO["mlp"](), path)
    out = [tmp_path / "out.json", tmp_path / "out.png"]
    options = ["--rounds", 2, "--json", out[0], "--plot", out[1]]
    result = kprune("benchmark", path, model_file, *options)
    assert result.exit_code == 0
    assert "mlp.onnx" in result.output
    assert [row["path"] for row in json.loads(out[0].read_text())["rows"]] == [
        str(path),
        str(model_file),
    ]
    assert out[1].read_bytes().startswith(b"\x89PNG")
    script = [sys.executable, ROOT / "scripts" / "benchmark.py", path, "--rounds", "2"]
    result = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "ONNX Runtime" in result.stdout


@pytest.mark.parametrize("command", ["sparsity", "flops", "benchmark"])
def test_what_can_go_wrong_is_one_line(command, tmp_path):
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04")
    for path in (tmp_path / "none.keras", tmp_path / "cut.keras", tmp_path / "other.txt"):
        result = kprune(command, path)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert path.name in result.output.replace("\n", "")
        assert "Traceback" not in result.output


def test_an_unwritable_report_is_an_error_and_leaves_nothing(model_file, tmp_path):
    result = kprune("flops", model_file, "--json", tmp_path / "nowhere" / "out.json")
    assert result.exit_code == 1
    assert "nowhere" in result.output.replace("\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--json", "--plot", "--compare"])
def test_where_nothing_can_be_written_or_read_nothing_is_measured(model_file, tmp_path, option):
    result = kprune("benchmark", model_file, option, tmp_path / "nowhere" / "out.json")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_prune(tmp_path):
    model = ZOO["mlp"]()
    model.save(tmp_path / "m.keras")
    sizes = (40, model.weights[0].shape[0])
    x = np.random.default_rng(0).normal(size=sizes).astype("float32")
    np.savez(tmp_path / "x.npz", x)
    whole = ["prune", tmp_path / "m.keras", "--data", tmp_path / "x.npz", "--sparsity", 0.5]
    result = kprune(*whole, "--output", tmp_path / "p.keras", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "pruned at once (obs)" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["weights"][0]["sparsity"] == 0.5
    pruned = keras.models.load_model(tmp_path / "p.keras")
    (kernel, *_) = pruned.get_weights()
    assert (kernel == 0).mean() == 0.5
    result = kprune(*whole, "--output", tmp_path / "b.keras", "--pattern", "block:2,1")
    assert result.exit_code == 0, result.output
    result = kprune(*whole, "--output", tmp_path / "c.keras", "--pattern", "channels")
    assert result.exit_code == 0, result.output
    small = keras.models.load_model(tmp_path / "c.keras")
    assert small.weights[0].shape[1] == model.weights[0].shape[1] // 2
    np.savez(tmp_path / "two.npz", a=x, b=x)
    for options, message in (
        (["--pattern", "block:2"], "block:ROWS,COLUMNS"),
        (["--pattern", "rows"], "block:ROWS,COLUMNS"),
        (["--sparsity", 2], "sparsity"),
        (["--data", tmp_path / "none.npz"], "No such file"),
        (["--data", __file__], "no readable .npz"),
        (["--data", tmp_path / "two.npz"], "one array, or arrays of the names"),
    ):
        result = kprune(*whole, "--output", tmp_path / "no.keras", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
        assert not (tmp_path / "no.keras").exists()


def test_optimize_refuses_in_a_line(model_file, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 20), "float32"))
    arguments = ["optimize", model_file, "--data", tmp_path / "x.npz", "--out", tmp_path / "out"]
    for options, message in (
        (["--target", "pi"], "`target` must be one of"),
        (["--target", "onnxruntime", "--labels", "y"], "holds no array 'y'"),
        (["--target", "onnxruntime", "--size", 0.1, "--latency", 0.1], "one budget"),
    ):
        result = kprune(*arguments, *options)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_optimize(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16)).astype("float32")
    y = x[:, :4].argmax(-1)
    layers = keras.layers
    stack = [keras.Input((16,)), layers.Dense(64, "relu"), layers.Dense(64, "relu")]
    model = keras.Sequential([*stack, layers.Dense(4, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=10, verbose=0)
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    result = kprune(
        "optimize", tmp_path / "m.keras", "--target", "onnxruntime", "--data",
        tmp_path / "data.npz", "--labels", "y", "--max-drop", 0.5, "--rounds", 3, "--out",
        tmp_path / "out", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "accuracy on 200 examples" in result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(found["points"]) > 1
