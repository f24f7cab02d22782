"""A checkpoint taken in mid-training, opened without kprune, and trained on with it."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import kprune
from tests.helpers.training import compiled, data, expected_zeros, kernels, mlp, zeros

WITHOUT_KPRUNE = """
import sys, warnings
warnings.simplefilter("error", UserWarning)
import keras, numpy as np
keras.config.set_dtype_policy(sys.argv[3])
model = keras.models.load_model(sys.argv[1])
assert "kprune" not in sys.modules
arrays = [keras.ops.convert_to_numpy(v.value) for v in model.weights + model.optimizer.variables]
np.savez(sys.argv[2], *arrays, kind=type(model.optimizer).__name__)
"""


def fit(model, **kwargs):
    x, y = data()
    callbacks = [kprune.Pruning(0.9, frequency=4), *kwargs.pop("callbacks", [])]
    kwargs |= {"batch_size": 16, "epochs": 6, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=callbacks, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_resume_from_a_checkpoint_in_mid_training(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    path = tmp_path / "mid.keras"

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.save(path)
                self.saved = [ops.convert_to_numpy(v.value).copy() for v in self.model.weights]
                base = self.model.optimizer.base_optimizer
                self.state = [ops.convert_to_numpy(v.value).copy() for v in base.variables]
                self.masks = [
                    ops.convert_to_numpy(m.value).copy()
                    for m in self.model.optimizer.masks().values()
                ]

    whole, keep = compiled(mlp()), Keep()
    fit(whole, callbacks=[keep])

    # In a process that never saw kprune: the same weights and optimizer state.
    out = tmp_path / "found.npz"
    command = [sys.executable, "-c", WITHOUT_KPRUNE, str(path), str(out), policy]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(out) as found:
        kind = str(found["kind"])
        arrays = [found[f"arr_{i}"] for i in range(len(found.files) - 1)]
    assert kind == ("Adam" if policy == "float32" else "LossScaleOptimizer")
    assert len(arrays) == len(keep.saved) + len(keep.state)
    for old, new in zip(keep.saved + keep.state, arrays):
        np.testing.assert_array_equal(old, new)

    # With kprune, the rest of the training is the same as it was.
    resumed = keras.models.load_model(path)
    before = {name: value != 0 for name, value in kernels(resumed).items()}
    for mask, kept in zip(keep.masks, before.values()):
        np.testing.assert_array_equal(mask, kept)
    fit(resumed, initial_epoch=3)
    assert zeros(resumed) == zeros(whole)
    schedules = [m.optimizer.groups[0].setting.schedule for m in (whole, resumed)]
    assert schedules[0].end_step == schedules[1].end_step
    for name, value in kernels(resumed).items():
        np.testing.assert_allclose(value, kernels(whole)[name], atol=1e-6)


# Keras 3.15 builds the optimizer of an .h5 file for no variables, and warns of it.
INFERENCE_WITHOUT_KPRUNE = """
import sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert "kprune" not in sys.modules
assert isinstance(model.optimizer, keras.optimizers.Adam)
np.savez(sys.argv[2], *model.get_weights(), outputs=model.predict(np.load(sys.argv[3]), verbose=0))
"""


@pytest.mark.slow
def test_an_h5_file_of_mid_training_is_plain_and_trains_on(tmp_path):
    path, found, inputs = tmp_path / "mid.h5", tmp_path / "found.npz", tmp_path / "x.npy"
    seen = {}

    def keep(epoch, logs):
        if epoch == 2:
            whole.save(path)
            seen["weights"] = whole.get_weights()
            seen["state"] = [ops.convert_to_numpy(v.value) for v in whole.optimizer.variables]
            seen["outputs"] = whole.predict(data()[0], verbose=0)
            assert isinstance(whole.optimizer, kprune.PruningOptimizer)

    whole = compiled(mlp())
    fit(whole, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=keep)])

    np.save(inputs, data()[0])
    command = [sys.executable, "-c", INFERENCE_WITHOUT_KPRUNE, str(path), str(found), str(inputs)]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(found) as alone:
        np.testing.assert_allclose(alone["outputs"], seen["outputs"], rtol=1e-5, atol=1e-6)
        for i, value in enumerate(seen["weights"]):
            np.testing.assert_array_equal(alone[f"arr_{i}"], value)

    with kprune.prune_scope():
        resumed = keras.models.load_model(path)
    base, masks = resumed.optimizer.variables, whole.optimizer.masks()
    assert len(base) + len(masks) == len(seen["state"])
    for new, old in zip(base, seen["state"]):
        np.testing.assert_array_equal(ops.convert_to_numpy(new.value), old)
    fit(resumed, initial_epoch=3)
    assert zeros(resumed) == zeros(whole) == expected_zeros(whole, 0.9)
    for name, value in kernels(resumed).items():
        np.testing.assert_allclose(value, kernels(whole)[name], atol=1e-6)
