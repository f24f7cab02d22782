import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError
from kprune.formats.tflite.file import packed, parsed
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.runtimes.tflm import TFLM, run_apart
from tests.helpers.runtimes import SKIP, needs_tensorflow, run_tflite

pytest.importorskip("tflite_micro")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    if needs_tensorflow:
        pytest.skip(SKIP)
    path = tmp_path_factory.mktemp("tflm") / "m.tflite"
    x = keras.Input((6, 5), name="x")
    more = keras.Input((4,), name="more")
    y = layers.Dense(3, name="y")(layers.Flatten()(layers.Conv1D(8, 3, activation="relu")(x)))
    model = keras.Model([x, more], [y, layers.Add(name="sum")([layers.Dense(4)(y), more])])
    kprune.export_tflite(model, path)
    return path


@pytest.fixture
def feed():
    rng = np.random.default_rng(0)
    shapes = {"x": (1, 6, 5), "more": (1, 4)}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def test_it_computes_what_litert_does_by_the_names_of_the_signature(file, feed):
    micro = TFLM(file)
    assert micro.inputs == {
        "x": ([1, 6, 5], np.float32, False),
        "more": ([1, 4], np.float32, False),
    }
    expected = run_tflite(file, feed)
    outputs = micro(feed | {"ignored": 0})
    assert outputs.keys() == expected.keys() == {"y", "sum"}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], rtol=1e-5, atol=1e-6)


def test_the_arena_is_the_smallest_that_does(file, feed):
    needed = TFLM(file).arena_bytes
    TFLM(file, arena=needed)(feed)
    with pytest.raises(RuntimeError, match=r"missing|Too many buffers"):
        TFLM(file, arena=needed - 16)


def test_in_a_process_of_its_own(file, feed):
    blob = file.read_bytes()
    runs = run_apart(blob, [feed, feed | {"x": 2 * feed["x"]}], ["sum", "y"])
    here = TFLM(blob)
    assert (runs.arena_bytes, runs.version) == (here.arena_bytes, here.version)
    first, second = runs.outputs
    np.testing.assert_array_equal(first[1], here(feed)["y"])
    assert not np.array_equal(first[0], second[0])


def test_a_file_that_takes_too_long(file, feed):
    with pytest.raises(ExportError, match=r"took longer than 0\.001 seconds"):
        run_apart(file.read_bytes(), [feed], ["y"], seconds=0.001)


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
@pytest.mark.parametrize(
    ("operator", "message"),
    [
        # It reads options that are not there.
        ("WHILE", r"ended its process \(exit status"),
        ("GELU", r"(?s)It says:.*Didn't find op for builtin opcode 'GELU'"),
    ],
)
def test_a_file_that_does_not_run(operator, message):
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(tflite_empty())
    number = getattr(schema.BuiltinOperator, operator)
    model.operatorCodes[0].builtinCode = number
    model.operatorCodes[0].deprecatedBuiltinCode = min(number, 127)
    with pytest.raises(ExportError, match=message):
        run_apart(packed(model), [], [])
