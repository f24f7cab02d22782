"""Wrapped models on more than one device."""

import subprocess
import sys

import pytest

from tests.helpers.training import backend

MIRRORED = """
import numpy as np, tensorflow as tf, keras, kprune
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.helpers.training import compiled
from tests.helpers.wrapped import *
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    inputs = keras.Input((20,))
    hidden = Block(20)(layers.Dense(33)(inputs) @ np.ones((33, 20), "float32"))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model = compiled(kprune.prune_low_magnitude(model, pruning_schedule=SCHEDULE))
fit(model, kprune.UpdatePruningStep())
assert zeros(model) == expected_zeros(model, 0.8)
assert steps(model) == {14}
masks = [mask for wrapper in wrappers_in(model) for _, mask, _ in wrapper.pruning_vars]
for variable in [*masks, *model.trainable_variables]:
    replicas = strategy.experimental_local_results(variable.value)
    assert len(replicas) == 2
    np.testing.assert_array_equal(*[replica.numpy() for replica in replicas])
print("all equal")
"""


@pytest.mark.slow
def test_replicas_have_the_same_masks(pytestconfig):
    if backend() != "tensorflow":
        pytest.skip("tf.distribute")
    arguments = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(arguments, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert "all equal" in done.stdout, done.stderr[-3000:]
