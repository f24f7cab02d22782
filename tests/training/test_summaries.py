import importlib.util

import keras
import numpy as np
import pytest

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.tensorboard import scalars
from tests.helpers.training import backend, compiled, data, mlp

pytest.importorskip("tensorboard")

SCHEDULE = kprune.PolynomialDecay(0.0, 0.8, begin_step=2, end_step=8, frequency=3)


def fit(model, *callbacks, **kwargs):
    x, y = data(64)
    return model.fit(x, y, 16, epochs=2, verbose=0, callbacks=list(callbacks), **kwargs)


def test_sparsity_and_threshold_of_wrapped_layers(tmp_path):
    model = compiled(kprune.prune_low_magnitude(mlp(), pruning_schedule=SCHEDULE))
    summaries = kprune.PruningSummaries(str(tmp_path))
    history = fit(
        model, kprune.UpdatePruningStep(), summaries, validation_data=data(16, seed=1)
    ).history
    found = scalars(tmp_path / "metrics")
    assert {tag.rpartition("/")[0].split("/", 1)[1] for tag in found} == {
        "first/kernel",
        "second/kernel",
        "head/kernel",
    }
    for wrapper in wrappers_in(model):
        ((weight, _, threshold),) = wrapper.pruning_vars
        steps, values = zip(*found[f"{weight.path}/sparsity"])
        assert steps == (0, 4, 8)
        n = np.prod(weight.shape)
        # The last update before step 4 was at step 2, where nothing is pruned yet.
        np.testing.assert_allclose(values, [0, 0, round(0.8 * n) / n], rtol=1e-6)
        assert found[f"{weight.path}/threshold"][-1] == (8, pytest.approx(float(threshold.numpy())))
        assert float(threshold.numpy()) > 0
    for folder, prefix in (("train", ""), ("validation", "val_")):
        logged = scalars(tmp_path / folder)["epoch_loss"]
        assert [step for step, _ in logged] == [0, 1]
        values = [value for _, value in logged]
        np.testing.assert_allclose(values, history[f"{prefix}loss"], rtol=1e-5)


@pytest.mark.slow
def test_sparsity_and_threshold_with_an_optimizer_that_prunes(tmp_path):
    model = compiled(mlp())
    fit(model, kprune.Pruning(schedule=SCHEDULE), kprune.PruningSummaries(tmp_path))
    found = scalars(tmp_path / "metrics")
    assert len(found) == 6
    for weight in model.optimizer.groups[0].weights:
        value = np.abs(weight.variable.numpy())
        assert found[f"{weight.name}/sparsity"][-1] == (8, pytest.approx((value == 0).mean()))
        assert found[f"{weight.name}/threshold"][-1] == (8, pytest.approx(value[value > 0].min()))


@pytest.mark.slow
def test_batches_are_logged_when_asked_for(tmp_path):
    model = compiled(kprune.prune_low_magnitude(mlp(), pruning_schedule=SCHEDULE))
    fit(model, kprune.PruningSummaries(str(tmp_path), update_freq=2))
    steps = [step for step, _ in scalars(tmp_path / "train")["batch_loss"]]
    assert {2, 4, 6, 8} <= set(steps)  # Keras 3.12 writes all of them.


def test_a_model_that_is_not_pruned_has_nothing_to_log(tmp_path):
    fit(compiled(mlp()), kprune.PruningSummaries(str(tmp_path)))
    assert not (tmp_path / "metrics").exists()
    assert "epoch_loss" in scalars(tmp_path / "train")


@pytest.mark.parametrize("log_dir", ["", None, 3])
def test_log_dir_must_be_a_path(log_dir):
    with pytest.raises(ValueError, match="log_dir"):
        kprune.PruningSummaries(log_dir)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    missing = {"tensorboard"}

    def hide(name, *args):
        return None if name in missing else find_spec(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(ImportError, match=r"tensorboard.*kprune\[all\]"):
        kprune.PruningSummaries(tmp_path)
    missing = {"tensorflow"}
    if backend() != "tensorflow":
        assert isinstance(kprune.PruningSummaries(tmp_path), keras.callbacks.TensorBoard)
    with pytest.raises(ImportError, match="needs tensorflow"):
        kprune.PruningSummaries(tmp_path, histogram_freq=1)
