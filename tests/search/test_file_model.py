"""Files behind the face of a Keras model compute what the file does, and are judged as one."""

import keras
import numpy as np
import pytest

import kprune
from kprune.graphs.walk import graph_of
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.search.file_model import FileModel
from kprune.search.goal import Goal
from kprune.search.judge import Judge, check_better_than_chance

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(70, 6)).astype("float32"), RNG.integers(0, 3, 70)


def classifier():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def several():
    """Two named inputs, one of them ids, and a dict of outputs."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    ids = keras.layers.Flatten()(keras.layers.Embedding(10, 2)(b))
    hidden = keras.layers.Concatenate()([a, ids])
    first, second = keras.layers.Dense(2, name="first"), keras.layers.Dense(5, name="second")
    return keras.Model({"a": a, "b": b}, {"one": first(hidden), "two": second(hidden)})


def as_file(model, path, **options):
    if path.suffix == ".onnx":
        report, runtime, batch = kprune.export_onnx(model, path, **options), OnnxRuntime, None
    else:
        report, runtime, batch = kprune.export_tflite(model, path, **options), LiteRT, 1
    structure = keras.tree.map_structure(lambda _: 0, graph_of(model).output)
    names = [one.name for one in report.outputs]
    file = FileModel(runtime(path), model, names, batch, structure)
    file.compile(run_eagerly=True, jit_compile=False)
    return file


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_predict_and_call_run_the_file(tmp_path, suffix):
    model = classifier()
    file = as_file(model, tmp_path / f"m{suffix}")
    wanted = model.predict(X, verbose=0)
    np.testing.assert_allclose(file.predict(X, verbose=0), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(file(X[:3]), wanted[:3], rtol=1e-4, atol=1e-5)


def test_structures_of_inputs_and_outputs_are_the_models(tmp_path):
    model = several()
    x = {"a": X[:5, :4], "b": RNG.integers(0, 10, (5, 3))}
    found = as_file(model, tmp_path / "m.tflite").predict(x, verbose=0)
    wanted = model.predict(x, verbose=0)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_inputs_by_name_go_where_keras_lets_them_go(tmp_path):
    """Of a model whose inputs are a list, in another order than their names."""
    z, a = keras.Input((3,), name="z"), keras.Input((3,), name="a")
    model = keras.Model([z, a], z - 2 * a)
    file = as_file(model, tmp_path / "m.tflite")
    x = {"a": X[:5, :3], "z": X[:5, 3:6], "other": X[:5]}
    wanted = x["z"] - 2 * x["a"]
    np.testing.assert_allclose(file(x), wanted, rtol=1e-5)
    np.testing.assert_allclose(file([x["z"], x["a"]]), wanted, rtol=1e-5)


def test_losses_by_the_names_of_outputs(tmp_path):
    x = keras.Input((6,))
    outputs = [keras.layers.Dense(n, name=name)(x) for n, name in ((2, "one"), (3, "two"))]
    model = keras.Model(x, outputs)
    model.compile(loss={"one": "mse", "two": "mae"}, loss_weights={"one": 1.0, "two": 3.0})
    y = {"one": X[:, :2], "two": X[:, :3]}
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path)
    judge = Judge(lambda m: m.evaluate(X, y, verbose=0, return_dict=True)["loss"], model)
    found = judge.of_dense(path, [one.name for one in report.outputs], model)
    assert judge.judged == "file"
    assert found == pytest.approx(model.evaluate(X, y, verbose=0, return_dict=True)["loss"])


def test_evaluate_is_of_the_file_with_the_users_loss_and_metrics(tmp_path):
    model = classifier()
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path)
    judge = Judge(lambda m: m.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"], model)
    names = [one.name for one in report.outputs]
    other = classifier()  # What was exported decides, not what is passed beside it.
    assert judge(path, names, other) == pytest.approx(
        model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
    )
    assert judge.judged == "file"


@pytest.mark.slow
def test_an_evaluate_that_needs_the_keras_model_gets_it(tmp_path):
    model = classifier()
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path)
    judge = Judge(lambda m: float(len(m.layers[0].get_weights())), model)
    assert judge.of_dense(path, [one.name for one in report.outputs], model) == 2
    assert judge.judged == "model"
    assert "list index out of range" in judge.reason


@pytest.mark.fast_for("nan")
@pytest.mark.parametrize("value", [None, {"accuracy": 1.0}, [1.0], "0.9", np.zeros(2), np.nan])
def test_what_is_no_number_is_refused(tmp_path, value):
    model = classifier()
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path)
    names = [one.name for one in report.outputs]
    with pytest.raises(ValueError, match="`evaluate` must return"):
        Judge(lambda m: value, model).of_dense(path, names, model)


@pytest.mark.slow
def test_an_error_of_evaluate_is_the_users(tmp_path):
    model = classifier()
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path)

    def broken(m):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        Judge(broken, model).of_dense(path, [one.name for one in report.outputs], model)


def test_a_metric_that_is_better_for_shuffled_weights_is_refused():
    model = classifier()
    eyes = np.eye(6, 8, dtype="float32"), np.eye(8, 3, dtype="float32")
    model.set_weights([eyes[0], np.zeros(8), 5 * eyes[1], np.zeros(3)])
    y = np.maximum(X, 0)[:, :3].argmax(-1)
    judge = Judge(lambda m: m.evaluate(X, y, verbose=0, return_dict=True)["loss"], model)
    metric = judge.of_model(model)
    weights = model.get_weights()
    with pytest.raises(ValueError, match="mode='min'"):
        check_better_than_chance(judge, Goal(max_drop=0.1), metric, model)
    model.set_weights(weights)
    check_better_than_chance(judge, Goal(max_drop=0.1, mode="min"), metric, model)
