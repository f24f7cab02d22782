import warnings

import keras
import numpy as np
import pytest

import kprune
from kprune.training import pruning_optimizer
from kprune.training.requests import unmet
from tests.helpers.training import backend, compiled, data, expected_zeros, mlp, zeros


class BestAt(keras.callbacks.Callback):
    """Stands for a validation loss that is best in one epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.best = epoch

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = abs(epoch - self.best) + 1.0


def stop(patience=50):
    return keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)


def fit(model, *callbacks, epochs=10, **kwargs):
    x, y = data(64)
    arguments = {"epochs": epochs, "batch_size": 16, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


@pytest.mark.fast_for("2")
@pytest.mark.parametrize("patience", [2, 50])
def test_early_stopping_waits_for_the_schedule(patience):
    model = compiled(mlp())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(
            model, BestAt(1), kprune.after_pruning(stop(patience)), kprune.Pruning(0.9), epochs=20
        )
        model = kprune.strip_pruning(model)
    assert zeros(model) == expected_zeros(model, 0.9)
    assert len(history.epoch) == (15 if patience == 2 else 20)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_without_it_the_end_of_fit_and_strip_say_what_was_reached(order):
    model = compiled(mlp())
    callbacks = [BestAt(3), *[kprune.Pruning(0.9), stop()][::order]]
    with pytest.warns(UserWarning, match=r"less sparsity than was asked: 0\.\d+, where 0\.9 was"):
        fit(model, *callbacks)
    assert sum(zeros(model).values()) < sum(expected_zeros(model, 0.9).values())
    with pytest.warns(UserWarning, match=r"stripped is less sparse.*where 0\.9 was asked"):
        kprune.strip_pruning(model)


@pytest.mark.slow
def test_only_the_best_of_the_sparse_epochs_is_kept(tmp_path):
    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True)
    model = compiled(mlp())
    fit(model, BestAt(0), kprune.Pruning(0.9), kprune.after_pruning(best))
    saved = keras.models.load_model(path)
    assert zeros(saved) == expected_zeros(saved, 0.9)


@pytest.mark.slow
def test_it_works_for_wrapped_models():
    schedule = kprune.PolynomialDecay(0.0, 0.9, 2, 20, frequency=2)
    model = compiled(kprune.prune_low_magnitude(mlp(), schedule))
    callbacks = [BestAt(1), kprune.after_pruning(stop(3)), kprune.UpdatePruningStep()]
    history = fit(model, *callbacks)
    assert len(history.epoch) == 8
    model = kprune.strip_pruning(model)
    assert zeros(model) == expected_zeros(model, 0.9)


@pytest.mark.slow
def test_wrapped_models_say_what_was_reached():
    schedule = kprune.PolynomialDecay(0.0, 0.9, 2, 30, frequency=2)
    model = compiled(kprune.prune_low_magnitude(mlp(), schedule))
    with pytest.warns(UserWarning, match=r"less sparsity than was asked.*0\.9"):
        fit(model, kprune.UpdatePruningStep(), BestAt(2), stop())
    with pytest.warns(UserWarning, match=r"stripped is less sparse.*0\.9"):
        kprune.strip_pruning(model)


@pytest.mark.slow
def test_a_run_that_never_gets_there():
    model = compiled(mlp())
    schedule = kprune.PolynomialDecay(0.0, 0.9, 2, 400)
    with pytest.warns(UserWarning, match="EarlyStopping never acted.*0.9"):
        fit(model, kprune.Pruning(schedule=schedule), BestAt(2), kprune.after_pruning(stop(1)))


def test_a_fit_without_pruning_is_as_ever():
    model = compiled(mlp())
    history = fit(model, BestAt(1), kprune.after_pruning(stop(2)))
    assert len(history.epoch) == 4


@pytest.mark.slow
def test_batches_are_passed_on_once_it_is_sparse(tmp_path):
    seen = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(int(np.asarray(self.model.optimizer.iterations)))

    model = compiled(mlp())
    fit(model, kprune.Pruning(0.5), kprune.after_pruning(Batches()))
    assert seen == list(range(29, 41))


def test_what_is_no_callback():
    with pytest.raises(TypeError, match="takes a callback"):
        kprune.after_pruning("early")


@pytest.mark.slow
def test_a_summary_line_unless_fit_is_silent(capsys):
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.5))
    assert "kprune" not in capsys.readouterr().out
    fit(model, kprune.Pruning(0.9), verbose=2)
    line = [row for row in capsys.readouterr().out.splitlines() if row.startswith("kprune: ")]
    total = sum(v.size if hasattr(v, "size") else np.prod(v.shape) for v in model.weights)
    share = sum(zeros(model).values()) / sum(np.prod(v.shape) for v in model.weights if v.ndim > 1)
    assert len(line) == 1
    assert f"sparsity {share:.4f} of 3 weights (asked: 0.9)" in line[0]
    assert f"{sum(zeros(model).values()) / total:.4f} of the whole model" in line[0]


@pytest.mark.slow
def test_so_it_does_for_wrappers_whose_masks_do_not_count(capsys):
    model = compiled(kprune.prune_low_magnitude(mlp(), kprune.ConstantSparsity(0.5, 0)))
    fit(model, kprune.UpdatePruningStep(), epochs=2, verbose=2)
    printed = capsys.readouterr().out
    whole = kprune.sparsity(kprune.strip_pruning(model)).model_sparsity
    assert "of 3 weights (asked: 0.5)" in printed
    assert f"{whole:.4f} of the whole model" in printed


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.last


def test_a_run_that_is_cut_short():
    model = compiled(mlp())
    with pytest.warns(UserWarning, match=r"where 0\.9 was asked.*made 8 optimizer steps.* at 17"):
        fit(model, kprune.Pruning(0.9), StopAt(1), epochs=6)
    assert unmet(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_data_set_that_runs_out():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9), steps_per_epoch=10, epochs=12)
    assert zeros(model) == expected_zeros(model, 0.9)


@pytest.mark.slow
def test_training_that_diverges_is_left_to_terminate_on_nan():
    model = compiled(mlp(), keras.optimizers.SGD(float("inf")))
    history = fit(model, keras.callbacks.TerminateOnNaN(), kprune.Pruning(0.5))
    assert len(history.epoch) == 1


def test_an_interrupt_in_an_update_leaves_weights_and_masks_together(monkeypatch):
    if backend() != "torch":
        pytest.skip("steps are compiled")
    model = compiled(mlp())
    pruning = kprune.Pruning(schedule=kprune.ConstantSparsity(0.5, 3))
    real = pruning_optimizer.mask_averages
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 5:  # In the fifth step, before the zeros of the first group are set.
            model.layers[0].kernel.assign_add(np.ones_like(model.layers[0].get_weights()[0]))
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pruning_optimizer, "mask_averages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruning)
    assert zeros(model) == expected_zeros(model, 0.5)
    kprune.strip_pruning(model)
