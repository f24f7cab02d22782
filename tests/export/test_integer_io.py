"""Integer inputs and outputs: of each kind, in every reader of `.tflite` files."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, integer_io
from kprune.graphs.walk import graph_of
from kprune.measure import benchmark, size
from kprune.runtimes.litert import LiteRT
from kprune.search.file_model import FileModel
from kprune.targets.target import get_target
from tests.helpers.runtimes import SKIP, digits_cnn, needs_tensorflow, prune_by_hand

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)
KINDS = [("int8", "int8"), ("int8", "uint8"), ("int16x8", "int16")]


@pytest.fixture(scope="module")
def trained(digits):
    x, y = digits
    model = digits_cnn()
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0)
    prune_by_hand(model, 0.3)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def files(trained, digits, tmp_path_factory):
    """{io: its report}, and the same file with float inputs."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for quantize, io in [*KINDS, ("int8", "float32")]:
        found[io] = kprune.export_tflite(
            trained, folder / f"{io}.tflite", quantize, digits[0][:200], io=io
        )
    return found


@pytest.mark.fast_for("int8")
@pytest.mark.parametrize("io", ["int8", "uint8", "int16"])
def test_a_c_program_has_what_it_needs(io, files, trained, digits):
    """By LiteRT alone, with the report's scale and zero point."""
    from ai_edge_litert.interpreter import Interpreter

    report, (x, y) = files[io], digits
    given, made = report.io
    assert (given.kind, given.index, given.dtype, given.shape) == ("input", 0, io, (1, 8, 8, 1))
    assert (made.kind, made.index, made.dtype, made.shape) == ("output", 0, io, (1, 10))
    interpreter = Interpreter(model_path=report.path)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert source["dtype"] == target["dtype"] == np.dtype(io)
    limits, hits = np.iinfo(io), 0
    for image, label in zip(x[1500:], y[1500:]):
        codes = np.clip(np.round(image / given.scale) + given.zero_point, limits.min, limits.max)
        interpreter.set_tensor(source["index"], codes.astype(io)[None])
        interpreter.invoke()
        output = (interpreter.get_tensor(target["index"]) - float(made.zero_point)) * made.scale
        assert abs(output.sum() - 1) < 0.05
        hits += int(output.argmax() == label)
    wanted = trained.evaluate(x[1500:], y[1500:], verbose=0, return_dict=True)["accuracy"]
    assert wanted > 0.8
    assert abs(hits / len(y[1500:]) - wanted) < 0.03


def test_the_file_is_the_one_with_floats_but_for_its_edges(files):
    """What `io` changes is who quantizes; verification sees about the same differences."""
    plain, integer = files["float32"], files["int8"]
    assert integer.max_abs_diff == pytest.approx(plain.max_abs_diff, abs=0.01)
    assert integer.weights == plain.weights
    assert any(weight.sparsity > 0.28 for weight in integer.weights)
    assert [each.scale for each in plain.io] == [None, None]


def test_the_report_says_so_as_data_and_printed(files):
    report = files["uint8"]
    data = json.loads(json.dumps(report.to_dict()))["io"]
    assert [each["dtype"] for each in data] == ["uint8", "uint8"]
    text = str(report)
    for each in report.io:
        row = rf"{each.kind} 0 .*{each.dtype} .*{each.scale:.9g} .* {each.zero_point} "
        assert re.search(row, text), row
    assert "stay float32" not in " ".join(report.notes)
    assert "zero point" not in str(files["float32"])


@pytest.mark.fast_for("int8")
@pytest.mark.parametrize("io", ["int8", "uint8", "int16"])
def test_readers_of_files_cope(io, files, trained, digits):
    path, (x, y) = files[io].path, digits
    structure = keras.tree.map_structure(lambda _: 0, graph_of(trained).output)
    file = FileModel(LiteRT(path), trained, [files[io].outputs[0].name], 1, structure)
    file.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    there = file.evaluate(x[1500:], y[1500:], verbose=0, return_dict=True)["accuracy"]
    here = trained.evaluate(x[1500:], y[1500:], verbose=0, return_dict=True)["accuracy"]
    assert abs(there - here) < 0.03
    predicted = file.predict(x[1500:1540], verbose=0)
    np.testing.assert_allclose(predicted, trained.predict(x[1500:1540], verbose=0), atol=0.15)
    assert size(path).parameters == size(files["float32"].path).parameters
    assert len(kprune.check(path, "litert-x86").layers) > 3
    assert benchmark([path], rounds=1, warmup=0).rows[0].median > 0


def several():
    """Inputs and outputs whose order in the file is not the model's, one of them ids."""
    z, b = keras.Input((4,), name="z"), keras.Input((3,), dtype="int32", name="b")
    hidden = layers.Concatenate()([z, layers.Flatten()(layers.Embedding(10, 2)(b))])
    two, one = layers.Dense(2, name="first")(hidden), layers.Dense(5, name="second")(hidden)
    return keras.Model({"z": z, "b": b}, {"two": two, "one": one})


def test_ids_stay_int32_and_positions_are_those_of_the_file(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    rng, path = np.random.default_rng(0), tmp_path / "m.tflite"
    data = {"z": rng.normal(size=(60, 4)), "b": rng.integers(0, 10, (60, 3))}
    report = kprune.export_tflite(several(), path, "int8", data, io="int8")
    interpreter = Interpreter(model_path=str(path))
    details = {"input": interpreter.get_input_details(), "output": interpreter.get_output_details()}
    assert {(each.name, each.dtype) for each in report.io if each.kind == "input"} == {
        ("b", "int32"),
        ("z", "int8"),
    }
    for each in report.io:
        there = details[each.kind][each.index]
        assert tuple(there["shape"]) == each.shape
        assert there["dtype"] == np.dtype(each.dtype)
        if each.scale is None:
            assert (each.name, each.zero_point) == ("b", None)
        else:
            assert there["quantization"] == (pytest.approx(each.scale), each.zero_point)


@pytest.mark.parametrize(
    ("quantize", "io", "said"),
    [
        (None, "int8", r"throughout: use quantize='int8' or 'int16x8'\. Received: io='int8'"),
        ("dynamic", "uint8", "throughout"),
        ("int8", "int16", r"must be one of \('int8', 'uint8', 'float32'\)\. Received: io='int16'"),
        ("int16x8", "int8", r"must be one of \('int16', 'float32'\)"),
        ("int8", "int4", "must be one of"),
    ],
)
def test_what_does_not_go_together_is_refused(quantize, io, said, trained, digits, tmp_path):
    with pytest.raises(ValueError, match=said):
        kprune.export_tflite(trained, tmp_path / "m.tflite", quantize, digits[0][:20], io=io)
    assert list(tmp_path.iterdir()) == []


def test_the_browser_takes_uint8_only():
    with pytest.raises(ValueError, match=r"use io='uint8'.*Received: io='int8'"):
        integer_io.check_runtime(get_target("litert-wasm"), "int8")
    integer_io.check_runtime(get_target("litert-wasm"), "uint8")


def test_floats_at_the_edge_of_a_file_are_refused(files):
    tensors = integer_io.file_tensors(Path(files["float32"].path).read_bytes())
    with pytest.raises(ExportError, match=r"left input 'input', output 'dense_1' in float32"):
        integer_io.check_made(tensors, "int8")
    integer_io.check_made(tensors, "float32")
