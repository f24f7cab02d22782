"""`Adaptive`: as sparse as a metric allows, and never less good than was allowed."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.training import compiled, data, mlp


class Metric(keras.callbacks.Callback):
    """Puts a metric into the logs that depends on the sparsity as a network's does."""

    def __init__(self, of_sparsity, name="quality"):
        super().__init__()
        self.of_sparsity, self.name = of_sparsity, name

    def on_epoch_end(self, epoch, logs=None):
        share = kprune.sparsity(self.model).sparsity
        logs[self.name] = self.of_sparsity(share, epoch)


def adaptive(*args, monitor="quality", max_drop=0.05, mode="max", frequency=2, **options):
    options |= {"mode": mode, "frequency": frequency}
    return kprune.Adaptive(monitor, max_drop, *args, **options)


def fit(model, schedule, of_sparsity, epochs=12, callbacks=(), **options):
    x, y = data(64)
    metric = Metric(of_sparsity, schedule.monitor)
    pruning = kprune.Pruning(schedule=schedule, allocation=kprune.Global(), **options)
    history = model.fit(
        x, y, 8, epochs, verbose=0, callbacks=[metric, pruning, *callbacks], shuffle=False
    )
    return history.history


def cliff(at):
    """A metric that is lost beyond some sparsity."""
    return lambda share, epoch: 0.9 if share <= at else 0.5


def share_of(model):
    return kprune.sparsity(model).sparsity


@pytest.mark.fast_for("0.85")
@pytest.mark.parametrize("at", [0.6, 0.85, 0.95])
def test_it_ends_with_the_sparsest_weights_that_held(at):
    model = compiled(mlp())
    schedule = adaptive(patience=1)
    logs = fit(model, schedule, cliff(at), epochs=16)
    held = [one["sparsity"] for one in schedule.tried if one["held"]]
    failed = [one["sparsity"] for one in schedule.tried if not one["held"]]
    assert share_of(model) == pytest.approx(max(held), abs=0.01)
    assert max(held) <= at + 0.01 < min(failed) + 0.02
    assert min(failed) - max(held) < 0.1  # It went on from there by smaller steps.
    assert logs["held_sparsity"][-1] == pytest.approx(max(held))
    assert logs["held_sparsity"][0] == 0
    model = kprune.strip_pruning(model)
    assert share_of(model) == pytest.approx(max(held), abs=0.01)


def test_what_is_put_back_is_what_held():
    """Bit by bit, whatever was tried after it."""
    model, seen = compiled(mlp()), []
    schedule = adaptive(initial_sparsity=0.5, patience=2)

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

    fit(model, schedule, cliff(0.6), epochs=4, callbacks=[Watch()])
    assert [one["held"] for one in schedule.tried] == [True, False, False]
    # Watch looked at the end of epoch 1 before the search did, and nothing lies in between.
    for got, expected in zip(model.get_weights(), seen[1]):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_a_sparsity_may_need_some_epochs():
    model = compiled(mlp())
    schedule = adaptive(patience=3)
    fit(model, schedule, lambda share, epoch: 0.9 if epoch in (0, 3, 4) else 0.5, epochs=4)
    assert [one["held"] for one in schedule.tried] == [False, False, True]
    assert len({one["sparsity"] for one in schedule.tried}) == 1


def test_where_nothing_holds_the_weights_from_before_come_back(capsys):
    model = compiled(mlp())
    schedule = adaptive(max_drop=0.01, patience=1)
    x, y = data(64)
    metric = Metric(lambda share, epoch: 1.0 - share)
    pruning = kprune.Pruning(schedule=schedule, allocation=kprune.Global())
    model.fit(x, y, 8, 4, verbose=2, callbacks=[metric, pruning])
    assert share_of(model) < 0.01
    assert "kprune: no sparsity held quality within 0.01" in capsys.readouterr().out
    assert kprune.strip_pruning(model) is model  # Which it may be: nothing was promised.


def test_the_last_line_says_what_held(capsys):
    model = compiled(mlp())
    schedule = adaptive(patience=1)
    x, y = data(64)
    pruning = kprune.Pruning(schedule=schedule, allocation=kprune.Global())
    model.fit(x, y, 8, 5, verbose=2, callbacks=[Metric(cliff(0.6)), pruning])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("kprune: quality held at sparsity 0.5")
    assert "0.9000, against 0.9000; the sparsest of 4 tried" in said


@pytest.mark.fast_for("val_loss")
@pytest.mark.parametrize("name", ["val_loss", "mean_error"])
def test_lower_may_be_better(name):
    model = compiled(mlp())
    mode = {"val_loss": None, "mean_error": "min"}[name]
    schedule = adaptive(monitor=name, mode=mode, patience=1)
    fit(model, schedule, lambda share, epoch: 0.1 if share <= 0.7 else 0.9, epochs=10)
    assert 0.5 < share_of(model) <= 0.71


@pytest.mark.slow
def test_a_baseline_is_kept_to():
    """Where training makes it better than that, more may go."""
    schedule = adaptive(max_drop=0.0, baseline=0.5, patience=1, step=0.5)
    model = compiled(mlp())
    fit(model, schedule, lambda share, epoch: 1.2 - share, epochs=10)
    assert 0.6 < share_of(model) <= 0.71


def test_a_model_with_zeros_goes_on_from_them():
    model = compiled(mlp())
    x, y = data(64)
    model.fit(x, y, 8, 2, verbose=0, callbacks=[kprune.Pruning(0.8, end=0.5)])
    schedule = adaptive(patience=1)
    fit(model, schedule, cliff(2.0), epochs=3)
    assert [round(one["sparsity"], 2) for one in schedule.tried] == [0.86, 0.9]


@pytest.mark.slow
def test_it_stops_at_the_highest():
    model = compiled(mlp())
    schedule = adaptive(highest=0.7)
    fit(model, schedule, cliff(2.0), epochs=8)
    assert share_of(model) == pytest.approx(0.7, abs=0.01)
    assert max(one["sparsity"] for one in schedule.tried) == pytest.approx(0.7, abs=0.01)


@pytest.mark.slow
def test_further_training_holds_the_zeros_and_another_search_goes_on():
    model = compiled(mlp())
    schedule = adaptive(patience=1)
    fit(model, schedule, cliff(0.7), epochs=8)
    share = share_of(model)
    x, y = data(64)
    model.fit(x, y, 8, 2, verbose=0)
    assert share_of(model) == pytest.approx(share, abs=0.005)
    fit(model, schedule, cliff(0.95), epochs=8)
    assert share < share_of(model) <= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [kprune.Block((4, 1)), kprune.Channels()], ids=repr)
def test_other_patterns(pattern):
    keras.utils.set_random_seed(0)
    wide = [layers.Dense(32, "relu"), layers.Dense(32, "relu"), layers.Dense(2)]
    model = keras.Sequential([keras.Input((20,)), *wide])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    schedule = adaptive(patience=1)
    pruning = kprune.Pruning(schedule=schedule, pattern=pattern)
    metric = Metric(cliff(0.8))
    model.fit(x, x[:, :2], 8, 10, verbose=0, callbacks=[metric, pruning])
    assert schedule.tried[0]["held"] or pattern == kprune.Channels()
    assert 0.3 < share_of(model) <= 0.82


def test_a_metric_that_is_not_there_is_told_with_those_that_are():
    model = compiled(mlp())
    x, y = data(64)
    pruning = kprune.Pruning(schedule=kprune.Adaptive("val_accuracy"))
    with pytest.raises(ValueError, match=r"'val_accuracy'.*`validation_data`.*'loss'"):
        model.fit(x, y, 8, 3, verbose=0, callbacks=[pruning])
    assert share_of(model) == 0


@pytest.mark.slow
def test_a_metric_that_is_nan_does_not_hold():
    model = compiled(mlp())
    schedule = adaptive(patience=1)
    fit(model, schedule, lambda share, epoch: 0.9 if share < 0.6 else float("nan"), epochs=6)
    assert share_of(model) < 0.6


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_drop": -0.1},
        {"monitor": ""},
        {"step": 0.01},
        {"step": 1},
        {"patience": 0},
        {"warm_up": 0},
        {"mode": "auto"},
        {"initial_sparsity": 0.95, "highest": 0.9},
        {"highest": 1.0},
        {"frequency": 0},
        {"baseline": "dense"},
    ],
    ids=repr,
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kprune.Adaptive(**arguments)


def test_the_first_sparsity_is_reached_along_a_curve_too():
    shares = []

    class Each(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shares.append(share_of(self.model))

    fit(compiled(mlp()), adaptive(frequency=1), cliff(2.0), epochs=2, callbacks=[Each()])
    epoch = shares[8:]
    assert 0 < epoch[0] < 0.3 < epoch[1] < epoch[2] < epoch[3] == epoch[7]
    assert epoch[7] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "others",
    [
        lambda schedule: [
            kprune.Pruning(schedule=schedule, layers={"first": 0.5, "second": schedule})
        ],
        lambda schedule: [
            kprune.Pruning(0.5, layers="first"),
            kprune.Pruning(schedule=schedule, layers="second"),
        ],
        lambda schedule: [
            kprune.Pruning(schedule=schedule, layers="second"),
            kprune.Pruning(0.5, layers="first"),
        ],
    ],
    ids=["layers", "before", "after"],
)
def test_nothing_else_may_be_pruned_beside_it(others):
    """It would go back, with the rest of the model, to an epoch before it was."""
    model, schedule = compiled(mlp()), adaptive()
    x, y = data(64)
    with pytest.raises(ValueError, match=r"layers=\{\.\.\.: None\}"):
        model.fit(x, y, 8, 4, verbose=0, callbacks=[Metric(cliff(1)), *others(schedule)])


def test_other_layers_may_stay_dense():
    model, schedule = compiled(mlp()), adaptive(patience=1)
    x, y = data(64)
    pruning = kprune.Pruning(schedule=schedule, layers={"head": None})
    model.fit(x, y, 8, 3, verbose=0, callbacks=[Metric(cliff(1)), pruning])
    zeros = [int((layer.get_weights()[0] == 0).sum()) for layer in model.layers if layer.weights]
    assert zeros[0] > 0 < zeros[1]
    assert zeros[2] == 0


def test_beside_zeros_that_are_held_there_is_one_search():
    model, schedule = compiled(mlp()), adaptive(patience=1)
    fit(model, schedule, cliff(1), epochs=4, callbacks=[kprune.HoldZeros()])
    assert [one["epoch"] for one in schedule.tried] == [1, 2, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: kprune.PruningOptimizer(keras.optimizers.Adam(), kprune.Adaptive(), model=mlp()),
        lambda: kprune.prune_low_magnitude(mlp(), pruning_schedule=kprune.Adaptive()),
    ],
    ids=["optimizer", "wrapper"],
)
def test_where_nobody_tells_it_the_metric_it_is_refused(make):
    with pytest.raises(ValueError, match="Adaptive follows a metric"):
        make()


def test_a_pattern_of_one_sparsity_is_refused():
    with pytest.raises(ValueError, match="nothing to try"):
        kprune.Pruning(schedule=kprune.Adaptive(), pattern=kprune.NM(2, 4))


def test_averages_of_weights_are_refused():
    model = compiled(mlp(), keras.optimizers.Adam(use_ema=True))
    with pytest.raises(ValueError, match="use_ema"):
        fit(model, adaptive(), cliff(1), epochs=2)


def test_several_optimizers_are_refused():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = mlp(), mlp()
            self.first, self.second = keras.optimizers.Adam(), keras.optimizers.SGD()

        def call(self, x):
            return self.other(x) + self.one(x)

    model = Two()
    model(data(2)[0])
    with pytest.raises(ValueError, match=r"one optimizer.*3 optimizers"):
        fit(compiled(model), adaptive(), cliff(1), epochs=2)


@pytest.mark.slow
def test_each_model_has_a_search_of_its_own():
    schedule, other, model = adaptive(patience=1), compiled(mlp()), compiled(mlp())
    pruning = kprune.Pruning(schedule=schedule)
    x, y = data(64)
    other.fit(x, y, 8, 4, verbose=0, callbacks=[Metric(cliff(1)), pruning])
    share = share_of(other)
    model.fit(x, y, 8, 1, verbose=0)
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(share_of(model)))
    model.fit(x, y, 8, 6, verbose=0, callbacks=[Metric(cliff(1)), pruning, watch])
    assert seen[0] < 0.01  # The warm-up.
    other.fit(x, y, 8, 4, verbose=0)
    assert share_of(other) == pytest.approx(share, abs=0.005)
    assert share_of(model) > share + 0.05


def test_a_model_with_zeros_wants_a_baseline():
    model = compiled(mlp())
    x, y = data(64)
    model.fit(x, y, 8, 2, verbose=0, callbacks=[kprune.Pruning(0.8, end=0.5)])
    with pytest.warns(UserWarning, match="`baseline=`, the dense model's"):
        fit(model, adaptive(), cliff(1), epochs=2)
    model = kprune.strip_pruning(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, adaptive(baseline=0.9), cliff(1), epochs=2)


@pytest.mark.slow
def test_what_is_better_is_asked_of_the_metric():
    model = compiled(mlp(), metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy()])
    x, y = data(64)
    for name, mode in {"accuracy": "max", "val_sparse_categorical_crossentropy": "min"}.items():
        schedule = kprune.Adaptive(name, 10.0)
        pruning = kprune.Pruning(schedule=schedule)
        model.fit(x, y, 8, 1, verbose=0, validation_data=(x, y), callbacks=[pruning])
        (group,) = model.optimizer.groups
        assert group.setting.schedule.mode == mode
    with pytest.raises(ValueError, match="pass mode='min' or mode='max'"):
        fit(compiled(mlp()), adaptive(mode=None), cliff(1), epochs=2)


def test_a_metric_that_was_never_a_number():
    with pytest.raises(ValueError, match="'quality', which is nan after 1 epochs"):
        fit(compiled(mlp()), adaptive(), lambda share, epoch: float("nan"), epochs=3)


def test_callbacks_that_select_an_epoch_wait_until_nothing_else_is_tried(tmp_path):
    schedule, path = adaptive(patience=1, highest=0.7), tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(path, "quality", save_best_only=True, mode="max")
    fit(
        compiled(mlp()), schedule, lambda share, epoch: 0.9 - 0.01 * share, epochs=8,
        callbacks=[kprune.after_pruning(best)],
    )  # fmt: skip
    assert share_of(keras.models.load_model(path)) == pytest.approx(0.7, abs=0.01)
    best = keras.callbacks.ModelCheckpoint(path, "quality", save_best_only=True, mode="max")
    with pytest.warns(UserWarning, match="Adaptive still tried other sparsities"):
        fit(compiled(mlp()), adaptive(), cliff(1), 2, callbacks=[kprune.after_pruning(best)])


@pytest.mark.parametrize("then", ["strip", "fit"])
def test_an_interrupt_in_a_trial_leaves_what_held(then):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    model, schedule = compiled(mlp()), adaptive(patience=3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, schedule, cliff(0.6), epochs=6, callbacks=[Stop()])
    assert [one["held"] for one in schedule.tried] == [True, False]
    if then == "fit":
        x, y = data(64)
        model.fit(x, y, 8, 1, verbose=0, callbacks=[kprune.HoldZeros()])
    model = kprune.strip_pruning(model)
    assert share_of(model) == pytest.approx(0.5, abs=0.01)


def test_the_last_line_where_there_was_nothing_to_try(capsys):
    x, y = data(64)
    model = compiled(mlp())
    pruning = kprune.Pruning(schedule=adaptive(warm_up=3))
    model.fit(x, y, 8, 2, verbose=2, callbacks=[Metric(cliff(1)), pruning])
    assert "the 3 epochs of warm-up were not reached" in capsys.readouterr().out
    model.fit(x, y, 8, 2, verbose=0, callbacks=[kprune.Pruning(0.8, end=0.5)])
    pruning = kprune.Pruning(schedule=adaptive(highest=0.7, baseline=0.9))
    model.fit(x, y, 8, 3, verbose=2, callbacks=[Metric(cliff(1)), pruning])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "kprune: no other sparsity than 0.8000 was tried, as `highest` is 0.7"


def test_the_schedule_is_the_same_for_numbers_and_in_the_compiled_step():
    schedule = kprune.Adaptive(frequency=7)
    schedule.build()
    assert schedule(5) == (False, 0.0)
    schedule.rise(10, 40, 0.5)
    assert schedule.last_update(9) is None
    schedule.rise(50, 91, 0.8)
    for step in range(45, 100):
        update, share = schedule(step)
        tensors = schedule(keras.ops.convert_to_tensor(step, "int32"))
        got = [keras.ops.convert_to_numpy(one) for one in tensors]
        assert bool(got[0]) == update == (step in (50, 57, 64, 71, 78, 85, 91))
        assert float(got[1]) == pytest.approx(share, abs=1e-6)
        last = schedule.last_update(step)
        assert last is None if step < 50 else schedule(last)[0]
    assert schedule(91)[1] == pytest.approx(0.8)


def test_it_is_told_by_its_arguments():
    schedule = kprune.Adaptive("val_loss", 0.2, step=0.5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert repr(again) == repr(schedule)
