"""Wrapped `.h5` files, of TFMOT and of kprune."""

import importlib.util
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.legacy.saving import legacy_h5_format

import kprune
from kprune._keras.opening_h5 import to_keras_3
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import compiled, data, mlp

SCHEDULE = kprune.PolynomialDecay(0.2, 0.8, 0, 6, frequency=2)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder with TFMOT's files."""
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs TFMOT")
    folder = tmp_path_factory.mktemp("tfmot")
    script = Path(__file__).with_name("write_h5.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def numpy(variable):
    return ops.convert_to_numpy(ops.convert_to_tensor(variable))


def load(path):
    with warnings.catch_warnings(), kprune.prune_scope():
        warnings.simplefilter("ignore")  # Keras: deprecated arguments.
        return keras.models.load_model(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layerwise", "whole", "nested", "never_trained"])
def test_a_file_of_tfmot_opens_as_it_was(theirs, name):
    with np.load(theirs / f"{name}.npz") as expected:
        expected = dict(expected)
    model = load(theirs / f"{name}.h5")
    outputs = model.predict(expected.pop("x"), verbose=0)
    np.testing.assert_allclose(outputs, expected.pop("y"), rtol=1e-4, atol=1e-5)
    found = {}
    for wrapper in wrappers_in(model):
        found[f"{wrapper.name}/step"] = numpy(wrapper.pruning_step)
        for i, variables in enumerate(wrapper.pruning_vars):
            for part, variable in zip(("weight", "mask", "threshold"), variables):
                found[f"{wrapper.name}/{i}/{part}"] = numpy(variable)
    assert set(found) == set(expected)
    for key, value in found.items():
        np.testing.assert_array_equal(value.astype(expected[key].dtype), expected[key], key)
    if name == "whole":
        config = type(wrappers_in(model)[0]).from_config
        again = [config(w.get_config()) for w in wrappers_in(model)]
        assert [w._prunes_depthwise for w in again] == [False] * len(again)


@pytest.mark.slow
def test_training_goes_on_from_a_file_of_tfmot(theirs):
    model = load(theirs / "layerwise.h5")
    x = np.load(theirs / "layerwise.npz")["x"]
    model.fit(x, np.zeros(32), 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    shares = []
    for wrapper in wrappers_in(model):
        assert int(numpy(wrapper.pruning_step)) == 8
        ((weight, _, _),) = wrapper.pruning_vars
        value = numpy(weight)
        shares.append((value == 0).sum() / value.size)
    # The second is of (2, 2) blocks, 0.5; the others are rounded.
    np.testing.assert_allclose(shares, [0.8, 0.5, 0.8], atol=0.02)
    plain = kprune.strip_pruning(model)
    np.testing.assert_allclose(plain.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_file_of_kprune_opens_with_its_optimizer_and_trains_on(tmp_path):
    model = compiled(kprune.prune_low_magnitude(mlp(), SCHEDULE))
    x, y = data(64)
    model.fit(x, y, 16, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    model.save(tmp_path / "wrapped.h5")
    loaded = load(tmp_path / "wrapped.h5")
    for old, new in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(numpy(old), numpy(new))
    for old, new in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(old), numpy(new))
    for each in (model, loaded):
        each.fit(x, y, 16, verbose=0, shuffle=False, callbacks=[kprune.UpdatePruningStep()])
    for old, new in zip(model.variables, loaded.variables):
        np.testing.assert_allclose(numpy(old), numpy(new), rtol=1e-5, atol=1e-6)


def test_scopes_leave_keras_as_it_was():
    before = (legacy_h5_format.json_utils, legacy_h5_format.saving_utils)
    barrier = threading.Barrier(2)

    def scope():
        with kprune.prune_scope():
            barrier.wait(60)

    threads = [threading.Thread(target=scope) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ZeroDivisionError), kprune.prune_scope():
        raise ZeroDivisionError
    assert (legacy_h5_format.json_utils, legacy_h5_format.saving_utils) == before


def test_only_what_keras_2_wrote_is_changed():
    config = {"class_name": "DepthwiseConv2D", "config": {"groups": 1, "kernel_size": [3, 3]}}
    assert to_keras_3(config)["config"] == {"kernel_size": [3, 3]}
    own = {"class_name": "MyLayer", "config": {"groups": 1, "axis": [3]}}
    assert to_keras_3(own) == own
    grouped = {"class_name": "Conv2D", "config": {"groups": 2}}
    assert to_keras_3(grouped) == grouped
    lstm = {"class_name": "LSTM", "config": {"time_major": True}}
    assert to_keras_3({"layer": [lstm]}) == {"layer": [lstm]}
    now = keras.saving.serialize_keras_object(layers.BatchNormalization(axis=2))
    assert to_keras_3(now)["config"]["axis"] == 2
