"""The examples in the docstrings of public names: they run, and print what they say."""

import ast
import doctest
import importlib
import inspect
import json
import re

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.training import backend

ROOMS = ["compression", "export", "measure", "pruning", "search", "structured", "targets"]
ROOMS += ["training"]
NOT_RUN = {"benchmark_web": "needs a browser", "write_operators": "needs a device"}
_EXPORT = "exports need TensorFlow"
ON_TENSORFLOW = dict.fromkeys(["CheckReport", "ExportReport", "check", "compress"], _EXPORT)
ON_TENSORFLOW |= dict.fromkeys(["QuantizationAware", "WeightClustering", "benchmark"], _EXPORT)
ON_TENSORFLOW |= dict.fromkeys(["export_onnx", "export_tflite", "for_target", "size"], _EXPORT)
ON_TENSORFLOW |= {"LatencyModel": _EXPORT}
ON_TENSORFLOW |= {"PruningOptimizer": "the loop is TensorFlow's"}
OPENED = {"CheckReport": "model", "check": "model", "size": "pruned", "to_c_array": "model"}
OPENED["benchmark"] = "dense pruned"


def docstrings():
    """Name -> docstring, of the public classes and functions."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"kprune.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found[name] = inspect.cleandoc(value.__doc__)
    return found


DOCSTRINGS = docstrings()
INTERACTIVE = sorted(name for name, text in DOCSTRINGS.items() if ">>>" in text)
BLOCKS = {
    name: re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for name, text in DOCSTRINGS.items()
    if "```python" in text
}


@pytest.mark.parametrize("name", INTERACTIVE)
def test_what_an_example_prints_is_what_it_says(name):
    names = {"keras": keras, "kprune": kprune}
    examples = doctest.DocTestParser().get_doctest(DOCSTRINGS[name], names, name, None, 0)
    said = []
    doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert said == [], "".join(said)


def test_the_parts_of_a_setting_have_worked_examples():
    bases = {"Allocation", "Criterion", "Pattern", "PruningSchedule", "Regrowth"}
    parts = set(kprune.pruning.__all__) - bases
    assert parts <= set(INTERACTIVE)


def model(*middle):
    """A small network with every layer that the examples name, and those given."""
    made = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv1"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 1, name="conv2"),
            layers.ReLU(),
            *middle,
            layers.GlobalAveragePooling2D(),
            layers.Dense(32, activation="relu", name="dense"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def surroundings():
    """What the examples take as given."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 8, 8, 3)).astype("float32")
    y = rng.integers(0, 4, 48)
    names = {"keras": keras, "kprune": kprune, "np": np, "json": json}
    names |= {
        "x": x,
        "y": y,
        "x_train": x,
        "y_train": y,
        "x_test": x,
        "y_test": y,
        "x_val": x,
        "y_val": y,
        "model": model(),
        "epochs": 1,
    }
    names |= {
        "batches": [(x[:24], y[:24])],
        "loss_fn": keras.losses.SparseCategoricalCrossentropy(),
    }
    names["schedule"] = kprune.ConstantSparsity(0.5, 0)
    if backend() == "tensorflow":
        names["tf"] = importlib.import_module("tensorflow")
    return names


def files_for(name):
    """Write the files that an example opens."""
    if name == "HoldZeros":
        model().save("pruned.keras")
    if name == "prune_scope":
        kprune.prune_low_magnitude(model()).save("wrapped.h5")
    if name in ("benchmark", "check"):  # And those that Vela makes of them.
        x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
        options = {"quantize": "int8", "representative_data": x, "target": "ethos-u55-128"}
        for stem in ("dense", "pruned", "int8"):
            kprune.export_tflite(model(), f"{stem}.tflite", tolerance=2.0, **options)
    for stem in OPENED.get(name, "").split():
        kprune.export_tflite(model(), f"{stem}.tflite")


def run(name):
    files_for(name)
    names = surroundings()
    if name == "for_target":  # With a layer that has no sparse kernel, and can lose channels.
        names["model"] = model(layers.Conv2D(64, 3, padding="same"), layers.ReLU())
    if name == "remove_blocks":
        middle = [layers.Dense(32, activation="relu", name=f"block_{i}") for i in range(4)]
        names["model"] = model(*middle)
    if name == "optimize":  # It wants a trained model: its labels are what the model says.
        names["y_val"] = np.argmax(names["model"].predict(names["x_val"], verbose=0), axis=-1)
    if name == "strip_clustering":
        names["model"] = kprune.cluster_weights(names["model"], 4)
    for block in BLOCKS[name]:
        exec(compile(block, f"<{name}>", "exec"), names)


@pytest.fixture
def _short(tmp_path, monkeypatch):
    """Two epochs are as good as ten here, and compiling would take longer than they do."""
    fit, compile_ = keras.Model.fit, keras.Model.compile

    def short(self, *args, epochs=1, **kwargs):
        return fit(self, *args, epochs=min(epochs, 2), verbose=0, **kwargs)

    def eager(self, *args, **kwargs):
        return compile_(self, *args, **{"run_eagerly": True} | kwargs)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPRUNE_LATENCY_CACHE", str(tmp_path))
    monkeypatch.setattr(keras.Model, "fit", short)
    monkeypatch.setattr(keras.Model, "compile", eager)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BLOCKS) - set(NOT_RUN)))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("_short")
def test_the_code_of_an_example_runs(name):
    if name in ON_TENSORFLOW and backend() != "tensorflow":
        pytest.skip(ON_TENSORFLOW[name])
    run(name)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_names_of_an_example_exist(name):
    for block in BLOCKS[name]:
        ast.parse(block)
        for path in re.findall(r"\bkprune((?:\.\w+)+)", block):
            value = kprune
            for part in path.split(".")[1:]:
                value = getattr(value, part)
