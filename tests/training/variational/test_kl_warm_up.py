"""The weight of the divergence in the loss of a `fit`."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.training import KLWarmUp, sparse_variational_dropout
from kprune.training.variational.wrapper import noisy_layers_in
from tests.helpers.training import backend, compiled, data, mlp


def state(model):
    """(weight in the loss at the end of the warm-up, steps of the warm-up, step) of the layers."""
    (found,) = {
        tuple(float(ops.convert_to_numpy(v)) for v in (w._scale, w._warm_up_steps, w._step))
        for w in noisy_layers_in(model)
    }
    return found


def fit(model, callback, n=100, **kwargs):
    x, y = data(n)
    arguments = {"epochs": 4, "batch_size": 32, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=[callback], **arguments)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_number_of_examples_is_that_of_an_epoch(steps_per_execution):
    if backend() == "torch" and steps_per_execution > 1:
        pytest.skip("torch runs one step at a time")
    model = compiled(sparse_variational_dropout(mlp()), steps_per_execution=steps_per_execution)
    fit(model, KLWarmUp(kl_weight=0.5, warm_up=0.25))
    np.testing.assert_allclose(state(model), (0.5 / 100, 4, 16), rtol=1e-6)
    fit(model, KLWarmUp(examples=1000, warm_up=0), epochs=1)
    np.testing.assert_allclose(state(model), (1 / 1000, 0, 20), rtol=1e-6)


def test_validation_is_not_counted():
    model = compiled(sparse_variational_dropout(mlp()))
    fit(model, KLWarmUp(), validation_data=data(30))
    assert state(model)[0] == pytest.approx(1 / 100)


def test_the_first_batch_tells_the_number_before_the_epoch_has_ended():
    scales = []

    class Watching(KLWarmUp):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            scales.append(1 / state(self.model)[0])

    fit(compiled(sparse_variational_dropout(mlp())), Watching(), epochs=1)
    np.testing.assert_allclose(scales, [128, 128, 128, 100], rtol=1e-6)


def test_the_weight_in_the_loss_rises_linearly():
    """Without noise, and with a learning rate of 0, the loss is the divergence's, step by step."""
    layer = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = sparse_variational_dropout(
        keras.Sequential([keras.Input((8,)), layer]), initial_log_sigma2=-3.0
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = np.zeros((80, 8), "float32"), np.zeros((80, 1), "float32")
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.append(logs["loss"])
    )
    model.fit(x, y, 80, 8, verbose=0, callbacks=[KLWarmUp(2.0, warm_up=0.5, examples=80), record])
    kl = float(ops.convert_to_numpy(ops.stop_gradient(noisy_layers_in(model)[0].kl())))
    weights = np.array([0, 0.25, 0.5, 0.75, 1, 1, 1, 1]) * 2 / 80
    np.testing.assert_allclose(losses, weights * kl, rtol=1e-3, atol=1e-6)


def test_a_run_that_is_resumed_goes_on_from_the_step_that_was_reached():
    model = compiled(sparse_variational_dropout(mlp()))
    fit(model, KLWarmUp(), epochs=2)
    assert state(model)[1:] == (4, 8)
    fit(model, KLWarmUp(), epochs=3, initial_epoch=2)
    assert state(model)[1:] == (6, 12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kl_weight": 0}, "`kl_weight`"),
        ({"warm_up": 1.5}, "`warm_up`"),
        ({"warm_up": None}, "`warm_up`"),
        ({"examples": 0}, "`examples`"),
        ({"examples": 1.5}, "`examples`"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        KLWarmUp(**arguments)


def test_a_model_without_noisy_layers_is_refused():
    with pytest.raises(ValueError, match="no SparseVariationalDropout layers"):
        fit(compiled(mlp()), KLWarmUp())


def test_an_epoch_of_unknown_length_is_refused():
    x, y = data(64)
    batches = ((x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8))
    model = compiled(sparse_variational_dropout(mlp()))
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(batches, verbose=0, callbacks=[KLWarmUp()])


def test_a_training_step_that_counts_no_examples_is_refused_unless_they_are_given():
    other = keras.metrics.Mean("other")

    class Uncounted(keras.Model):
        @property
        def metrics(self):
            return [other]

    inputs = keras.Input((20,))
    model = Uncounted(inputs, sparse_variational_dropout(layers.Dense(2))(inputs))
    model = compiled(model)
    with pytest.raises(ValueError, match="examples=len"):
        fit(model, KLWarmUp())
    fit(model, KLWarmUp(examples=100))
    assert state(model)[0] == pytest.approx(1 / 100)


MIRRORED = """
import numpy as np, tensorflow as tf, keras, kprune
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.helpers.training import compiled, mlp
from tests.training.variational.test_kl_warm_up import fit, state
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = compiled(kprune.training.sparse_variational_dropout(mlp()))
history = fit(model, kprune.training.KLWarmUp(warm_up=0.25), n=128).history
np.testing.assert_allclose(state(model), (1 / 128, 4, 16), rtol=1e-6)
assert history["kl"][-1] < history["kl"][0]
for variable in model.trainable_variables:
    replicas = strategy.experimental_local_results(variable.value)
    assert len(replicas) == 2
    np.testing.assert_array_equal(*[replica.numpy() for replica in replicas])
print("all equal")
"""


@pytest.mark.slow
def test_on_replicas(pytestconfig):
    if backend() != "tensorflow":
        pytest.skip("tf.distribute")
    arguments = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(arguments, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert "all equal" in done.stdout, done.stderr[-3000:]
