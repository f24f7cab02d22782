"""`scripts/benchmark_device.py`, as it is used: copied to a folder, run by itself."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kprune.export import export_onnx, export_tflite
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.measure import FileBenchmark, benchmark
from tests.helpers.hostile import endless, onnx_file
from tests.helpers.zoo import ZOO

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that it runs"
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder as it is copied to the device: the script, models, recorded values."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("device")
    keras.utils.set_random_seed(0)
    model = ZOO["dict_io"]()
    export_tflite(model, folder / "m.tflite")
    export_onnx(model, folder / "m.onnx")
    shutil.copy(SCRIPTS / "benchmark_device.py", folder)
    done = run(folder, "--record", "m.tflite", "m.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["m.tflite.check.npz", "m.onnx.check.npz"]
    return folder


@pytest.mark.slow
def test_integer_inputs_and_outputs(tmp_path):
    """One unit more or less is rounding, two are not."""
    pytest.importorskip("ai_edge_litert")
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).normal(size=(40, 16, 16, 3))
    export_tflite(ZOO["cnn"](), tmp_path / "m.tflite", "int8", data, io="int8")
    shutil.copy(SCRIPTS / "benchmark_device.py", tmp_path)
    assert run(tmp_path, "--record", "m.tflite").returncode == 0
    recorded = tmp_path / "m.tflite.check.npz"
    for apart, code in ((1, 0), (2, 1)):
        with np.load(recorded) as arrays:
            values = dict(arrays)
        assert values["output_0"].dtype == values["input_0"].dtype == np.int8
        assert len(np.unique(values["input_0"])) > 100
        np.savez(recorded, **values | {"output_0": values["output_0"] ^ np.int8(apart)})
        done = run(tmp_path, "m.tflite", "--rounds", "1", "--json", "device.json")
        assert done.returncode == code, done.stdout + done.stderr
        np.savez(recorded, **values)


@pytest.fixture
def device(recorded, tmp_path):
    return Path(shutil.copytree(recorded, tmp_path / "device"))


def run(folder, *arguments):
    """Run the script in a folder where kprune, keras and tensorflow cannot be imported."""
    blocker = folder / "blocked"
    blocker.mkdir(exist_ok=True)
    for name in ("kprune", "keras", "tensorflow"):
        (blocker / f"{name}.py").write_text(f"raise ImportError('{name} is not on the device')")
    command = [sys.executable, "benchmark_device.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(blocker)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_outputs_agree_and_the_report_is_the_workstations(device):
    options = ["--rounds", 3, "--warmup", 1, "--json", "pi.json"]
    done = run(device, "m.tflite", "m.onnx", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("agree") == 2
    report = json.loads((device / "pi.json").read_text())
    here = benchmark(device / "m.tflite", rounds=1, warmup=0).to_dict()
    assert set(here) <= set(report)
    measured = set(FileBenchmark.__dataclass_fields__) - {"estimate"}
    assert set(here["machine"]) == set(report["machine"])
    for row in report["rows"]:
        assert measured <= set(row)
        assert row["difference"] <= 1e-5
        assert 0 < row["p10"] <= row["median"] <= row["p90"]
    assert report["rows"][0]["bytes"] == here["rows"][0]["bytes"]
    assert report["rows"][0]["speedup"] == 1.0
    assert set(report["machine"]["runtimes"]) == {"LiteRT", "ONNX Runtime"}

    compared = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark.py", "m.tflite", "--rounds=1", "--compare=pi.json"],
        cwd=device,
        capture_output=True,
        text=True,
    )
    assert (compared.returncode, compared.stderr) == (0, "")
    assert "median there" in compared.stdout


def change(path, **changes):
    with np.load(path) as arrays:
        changed = dict(arrays) | changes
    np.savez(path, **changed)


@pytest.mark.slow
def test_other_outputs_fail(device):
    path = device / "m.tflite.check.npz"
    with np.load(path) as arrays:
        output = arrays["output_0"]
    change(path, output_0=output + 0.01 * np.abs(output).max())
    done = run(device, "m.tflite", "m.onnx", "--rounds", 1, "--json", "pi.json")
    assert done.returncode == 1
    assert "(relative) from the recorded one" in done.stderr
    assert "m.onnx" not in done.stderr
    first, second = json.loads((device / "pi.json").read_text())["rows"]
    assert first["difference"] == pytest.approx(0.01, rel=0.05)
    assert first["median"] > 0
    assert second["reason"] is None


@pytest.mark.slow
def test_a_file_that_does_not_run_leaves_the_others_measured(device):
    (device / "cut.tflite").write_bytes((device / "m.tflite").read_bytes()[:1000])
    digest = hashlib.sha256((device / "cut.tflite").read_bytes()).hexdigest()
    shutil.copy(device / "m.tflite.check.npz", device / "cut.tflite.check.npz")
    change(device / "cut.tflite.check.npz", sha256=np.array(digest))
    done = run(device, "m.tflite", "cut.tflite", "--rounds", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("cut.tflite: it cannot be loaded")
    assert "agree" in done.stdout
    assert "does not run" in done.stdout


@pytest.mark.slow
def test_recorded_values_must_be_there_whole_and_of_this_file(device):
    check = device / "m.onnx.check.npz"
    check.write_bytes(check.read_bytes()[:500])
    with (device / "m.tflite").open("ab") as file:
        file.write(b"\0")
    shutil.copy(device / "m.onnx", device / "new.onnx")
    done = run(device, "m.onnx", "m.tflite", "new.onnx", "--rounds", 1)
    assert done.returncode == 1
    assert "m.onnx.check.npz is damaged" in done.stderr
    assert "m.tflite.check.npz was recorded for another version of it" in done.stderr
    assert "--record new.onnx" in done.stderr


@pytest.mark.slow
def test_what_cannot_be_recorded_leaves_no_file(device):
    (device / "bad.onnx").write_bytes(b"nothing")
    done = run(device, "--record", "bad.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("bad.onnx: it cannot be loaded")
    assert not list(device.glob("*bad.onnx.*"))
    assert run(device, "none.onnx").stderr.endswith("no such file: none.onnx\n")


@pytest.mark.slow
def test_a_file_that_does_not_end_or_crashes_is_named(device):
    onnx = pytest.importorskip("onnx")
    endless(device / "endless.onnx")
    done = run(device, "--record", "endless.onnx", "--timeout", 2)
    assert done.stderr == "endless.onnx: it did not run within 2 seconds (--timeout)\n"
    digest = hashlib.sha256((device / "endless.onnx").read_bytes()).hexdigest()
    x = {"input_names": ["x"], "input_0": np.zeros((1, 4), "float32"), "sha256": digest}
    y = {"output_names": ["y"], "output_0": np.zeros((1, 4), "float32"), "batch_size": 1}
    np.savez(device / "endless.onnx.check.npz", **x, **y)
    done = run(device, "endless.onnx", "m.onnx", "--rounds", 1, "--timeout", 30)
    assert done.stderr == "endless.onnx: it did not run within 30 seconds (--timeout)\n"
    assert "agree" in done.stdout
    (device / "blocked" / "onnxruntime.py").write_text("import os; os.abort()")
    done = run(device, "--record", "m.onnx")
    assert done.stderr.endswith("m.onnx: it took its runtime down (exit -6)\n")
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx_file(device / "huge.onnx", [relu], {}, dims=(1, 10**6, 10**5))
    (device / "blocked" / "onnxruntime.py").unlink()
    done = run(device, "--record", "huge.onnx")
    assert done.stderr == "huge.onnx: its input 'x' says to hold 100,000,000,000 numbers\n"
    assert not list(device.glob(".*"))


@pytest.mark.slow
def test_a_missing_runtime_is_named(device):
    (device / "blocked").mkdir(exist_ok=True)
    (device / "blocked" / "onnxruntime.py").write_text("raise ImportError(name='onnxruntime')")
    done = run(device, "m.onnx", "--rounds", 1)
    assert done.returncode == 1
    assert "Install it with: pip install onnxruntime" in done.stderr


def test_many_files_together(device):
    """Without recorded values; one that does not run has no time."""
    folder = device / "operators"
    folder.mkdir()
    for i in range(60):  # More than are loaded at once.
        (folder / f"{i}.tflite").write_bytes(tflite_empty(1 + i))
    (folder / "bad.tflite").write_bytes(b"damaged")
    files = sorted(path.relative_to(device) for path in folder.iterdir())
    done = run(device, "--together", *files, "--rounds", 2, "--json", "pi.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "60 of 61 files timed\n"
    rows = {Path(r["path"]).stem: r for r in json.loads((device / "pi.json").read_text())["rows"]}
    assert len(rows) == 61
    assert rows.pop("bad")["reason"] == "it does not run"
    assert all(row["median"] > 0 and row["reason"] is None for row in rows.values())


def test_it_is_python_3_9_of_the_standard_library():
    tree = ast.parse((SCRIPTS / "benchmark_device.py").read_text(), feature_version=(3, 9))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert found - sys.stdlib_module_names == {"ai_edge_litert", "numpy", "onnxruntime"}
