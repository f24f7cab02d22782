import json
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from kprune.cli import app
from kprune.demo import demo
from kprune.demo.report import STEMS
from kprune.measure import size
from kprune.search.stopwatch import local_litert

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")
SEARCHES = [f"search-{target}" for target in ("onnxruntime", local_litert())]
datasets = pytest.importorskip("sklearn.datasets")


def some_digits(path, **changes):
    """Write 480 real digits as MNIST's file has them, uint8 and without channels."""
    x, y = datasets.load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8).astype("uint8")
    arrays = {
        "x_train": x[:400],
        "y_train": y[:400].astype("uint8"),
        "x_test": x[400:480],
        "y_test": y[400:480].astype("uint8"),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    arrays = some_digits(folder / "some.npz")
    out = folder / "made" / "here"
    command = ["demo", "--data", folder / "some.npz", "--out", out, "--epochs", 8]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kprune.demo.run._ROUNDS", 2)
        result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    return out, arrays, result.output


@pytest.mark.slow
def test_files_figures_and_picture_are_there_and_nothing_else(run):
    out, _, output = run
    names = [f"{m}.{suffix}" for m in STEMS for suffix in ("keras", "onnx", "tflite")]
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*names, *SEARCHES, "demo.json", "demo.png"]
    )
    assert all(name in output for name in names)
    rows = {row["file"]: row for row in json.loads((out / "demo.json").read_text())["rows"]}
    assert set(rows) == set(names)
    for name, row in rows.items():
        assert row["bytes"] == (out / name).stat().st_size
        assert row["latency"] > 0


@pytest.mark.slow
def test_pruned_files_hold_the_sparsity_asked_for(run):
    out, _, _ = run
    for suffix in (".keras", ".tflite", ".onnx"):
        pruned, dense = size(out / f"pruned{suffix}"), size(out / f"dense{suffix}")
        # Rounded to whole blocks of four in each Dense layer.
        assert abs(pruned.parameters - pruned.nonzeros - 0.9 * pruned.parameters) <= 6
        assert dense.nonzeros == dense.parameters == pruned.parameters
    assert size(out / "pruned.tflite").bytes < size(out / "dense.tflite").bytes / 4


@pytest.mark.slow
def test_accuracy_is_that_of_the_files(run):
    from ai_edge_litert.interpreter import Interpreter

    out, arrays, _ = run
    rows = {row["file"]: row for row in json.loads((out / "demo.json").read_text())["rows"]}
    x = arrays["x_test"][..., None].astype("float32") / arrays["x_train"].max()
    model = keras.models.load_model(out / "pruned.keras")
    assert getattr(model, "optimizer", None) is None
    right = np.mean(model.predict(x, verbose=0).argmax(-1) == arrays["y_test"])
    assert rows["pruned.keras"]["accuracy"] == right
    interpreter = Interpreter(model_path=str(out / "pruned.tflite"))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    (key,) = runner.get_input_details()
    found = [next(iter(runner(**{key: one[None]}).values())).argmax() for one in x]
    assert rows["pruned.tflite"]["accuracy"] == np.mean(np.array(found) == arrays["y_test"])
    # 400 digits teach little, but far more than guessing.
    assert all(row["accuracy"] > 0.6 for row in rows.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "y_test"),
        ({"x_train": np.zeros((400, 64))}, r"x_train must be images.*\(400, 64\)"),
        ({"y_train": np.zeros(400)}, "y_train must be integer classes.*float64"),
        ({"y_test": np.zeros(3, "uint8")}, "80 images and 3 classes"),
        ({"x_test": np.zeros((80, 9, 9))}, r"\(8, 8\) and \(9, 9\)"),
        ({"x_test": np.array([{}] * 80)}, "without pickles"),
    ],
)
def test_bad_data_is_refused_before_anything_is_made(tmp_path, changes, message):
    some_digits(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=message):
        demo(tmp_path / "out", data=tmp_path / "bad.npz")
    assert not Path(tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [{"sparsity": 90}, {"sparsity": 1.0}, {"epochs": 0}])
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        demo(tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        demo(tmp_path / "out", data=tmp_path / "none.npz")
