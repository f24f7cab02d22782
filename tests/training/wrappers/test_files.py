"""Wrapped models in files and in fresh processes."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.training import compiled, data
from tests.helpers.wrapped import (
    SCHEDULE,
    fit,
    steps,
    wrapped_mlp,
    zeros,
)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"pruning_schedule": SCHEDULE, "block_size": (4, 1), "block_pooling_type": "MAX"},
        {"sparsity_m_by_n": (2, 4), "name": "mine"},
    ],
)
def test_the_configuration_is_saved_whole(kwargs):
    layer = kprune.prune_low_magnitude(layers.Dense(4, activation="relu"), **kwargs)
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kprune.PruneLowMagnitude
    assert again.get_config() == layer.get_config()
    for name, value in kwargs.items():
        if name != "pruning_schedule":
            assert getattr(again, name) == value
    assert repr(again.pruning_schedule) == repr(layer.pruning_schedule)


@pytest.mark.slow
def test_training_goes_on_from_a_file_at_the_same_step_and_masks(tmp_path):
    whole = compiled(wrapped_mlp())
    initial = whole.get_weights()
    fit(whole, kprune.UpdatePruningStep(), steps=14, epochs=2)

    half = compiled(wrapped_mlp())
    half.set_weights(initial)
    x, y = data(16 * 7)
    half.fit(x, y, 16, verbose=0, shuffle=False, callbacks=[kprune.UpdatePruningStep()])
    half.save(tmp_path / "half.keras")
    with kprune.prune_scope():
        loaded = keras.models.load_model(tmp_path / "half.keras")
    assert steps(loaded) == {7}
    assert zeros(loaded) == zeros(half)
    loaded.fit(x, y, 16, verbose=0, shuffle=False, callbacks=[kprune.UpdatePruningStep()])
    assert steps(loaded) == {14}
    for a, b in zip(whole.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


FRESH = """
import sys, keras, numpy, kprune
model = keras.models.load_model(sys.argv[1])
step = model.layers[0].pruning_step
assert int(step) == 14, step
x = numpy.ones((16, 20), "float32")
model.fit(x, numpy.zeros(16), verbose=0, callbacks=[kprune.UpdatePruningStep()])
kprune.strip_pruning(model).save(sys.argv[2])
"""
PLAIN = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("kprune") for name in sys.modules)
assert [layer.name for layer in model.layers] == ["first", "second", "re_lu", "head"]
kernels = [numpy.array(v) for v in model.weights if len(v.shape) > 1]
assert [int((k == 0).sum()) for k in kernels] == [round(0.8 * k.size) for k in kernels]
"""


@pytest.mark.slow
def test_files_open_in_a_fresh_process_wrapped_with_kprune_and_stripped_without(tmp_path):
    keras.utils.clear_session(free_memory=False)
    model = compiled(wrapped_mlp())
    fit(model, kprune.UpdatePruningStep())
    model.save(tmp_path / "wrapped.keras")
    files = [str(tmp_path / name) for name in ("wrapped.keras", "plain.keras")]
    subprocess.run([sys.executable, "-c", FRESH, *files], check=True)
    subprocess.run([sys.executable, "-c", PLAIN, files[1]], check=True, cwd=tmp_path)
