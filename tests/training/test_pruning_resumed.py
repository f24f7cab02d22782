"""`Pruning` that goes on from backups and checkpoints."""

from types import SimpleNamespace

import keras
import pytest
from keras import ops

import kprune
from kprune.graphs.weights import weights_of
from kprune.pruning import selection
from kprune.pruning.window import Window
from tests.helpers.training import compiled, expected_zeros, fit, mlp, schedule_of, zeros


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_backup_and_restore(tmp_path, first):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def train(*more):
        keras.utils.set_random_seed(1)
        model = compiled(mlp())
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [kprune.Pruning(0.9), backup] if first else [backup, kprune.Pruning(0.9)]
        try:
            fit(model, *callbacks, *more)
        except KeyboardInterrupt:
            return None
        return model

    train(Interrupt())
    model = train()
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 64
    assert schedule_of(model).end_step == 45
    assert zeros(model) == expected_zeros(model, 0.9)


class Steps(keras.callbacks.Callback):
    """Notes (step, zeros of a kernel) after every batch, and ends at a step as a kill would."""

    def __init__(self, last=None):
        super().__init__()
        self.seen, self.last = [], last

    def on_train_batch_end(self, batch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        self.seen.append((step, zeros(self.model)["second/kernel"]))
        if step == self.last:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("killed", [13, 37], ids=["in the first epoch", "later"])
def test_resumed_in_mid_epoch_the_schedule_goes_on_from_where_it_was(tmp_path, killed):
    def train(steps):
        model = compiled(mlp())
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4)
        try:
            fit(model, backup, kprune.Pruning(0.9, frequency=3), steps)
        except KeyboardInterrupt:
            return None
        return model

    before, after = Steps(killed), Steps()
    assert train(before) is None
    model = train(after)
    # It was saved at a fourth step; Keras goes on with that step, from the epoch's beginning.
    assert after.seen[0][0] == killed // 4 * 4 + 1
    schedule = schedule_of(model)
    assert (schedule.begin_step, schedule.end_step, schedule.initial_sparsity) == (6, 45, 0.0)
    for step, found in before.seen + after.seen:
        update = schedule.last_update(step)
        assert found == round((0 if update is None else schedule(update)[1]) * 33 * 17)
    assert zeros(model) == expected_zeros(model, 0.9)


def test_checkpoints_are_sparse(tmp_path):
    model = compiled(mlp())
    path = str(tmp_path / "{epoch}.keras")
    fit(model, kprune.Pruning(0.9), keras.callbacks.ModelCheckpoint(path))
    for epoch in (2, 3, 4):
        saved = keras.models.load_model(tmp_path / f"{epoch}.keras")
        assert type(saved.optimizer) is type(model.optimizer.base_optimizer)
        sparsity = schedule_of(model)(schedule_of(model).last_update(16 * epoch))[1]
        assert zeros(saved) == expected_zeros(saved, sparsity)


@pytest.mark.fast_for("Unstructured()-Uniform()")
@pytest.mark.parametrize(
    ("pattern", "allocation"),
    [
        (kprune.Unstructured(), kprune.Uniform()),
        (kprune.Unstructured(), kprune.Global()),
        (kprune.Block((4, 1)), kprune.Uniform()),
    ],
    ids=str,
)
def test_a_run_goes_on_by_the_same_schedule_in_whichever_epoch_it_was_cut(pattern, allocation):
    model = compiled(mlp())
    callback = kprune.Pruning(0.9, pattern=pattern, allocation=allocation)
    found, steps, epochs = weights_of(model), 10, 16
    (group,) = selection.group(found, callback.default, None, model)
    schedule = Window().schedule(group, run_of(0, steps * epochs))
    dense = [ops.convert_to_numpy(weight.variable) for weight in group.weights]
    for epoch in range(1, epochs):
        now = epoch * steps
        update = schedule.last_update(now)
        if update is not None:
            values = [ops.convert_to_tensor(value) for value in dense]
            # As the compiled step computes it, in float32.
            masks = group.masks(values, ops.cast(schedule(update)[1], "float32"))
            for weight, value, mask in zip(group.weights, values, masks):
                weight.variable.assign(ops.where(mask, value, 0.0))
        resumed = Window().schedule(group, run_of(now, steps * epochs))
        assert resumed.get_config() == schedule.get_config()


def run_of(now, total):
    return SimpleNamespace(now=now, first=0, total=total, last=total, beginnings=[0], repeated=0)
