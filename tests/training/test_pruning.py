import os
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.weights import weights_of
from kprune.pruning import selection
from kprune.pruning.window import Window
from tests.helpers.partly_built import Detector, Siamese, Wrapper, rows, text
from tests.helpers.training import backend, compiled, data, expected_zeros, kernels, mlp, zeros

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")


def fit(model, *callbacks, epochs=4, batch_size=16, n=256, **kwargs):
    x, y = data(n)
    arguments = {"epochs": epochs, "batch_size": batch_size, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def schedule_of(model):
    return model.optimizer.groups[0].setting.schedule


@pytest.mark.fast_for("default-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "how",
    [{}, {"jit_compile": True}, {"jit_compile": False}, {"steps_per_execution": 7}],
    ids=lambda how: "-".join(map(str, how.items())) or "default",
)
def test_exact_sparsity_however_it_is_compiled(policy, how):
    if backend() == "torch" and how:
        pytest.skip("torch compiles nothing, one step at a time")
    if policy == "mixed_float16" and "jit_compile" in how and "max_isa" in XLA_FLAGS:
        pytest.skip("XLA compiles no float16 for processors without F16C, of Keras alone either")
    keras.config.set_dtype_policy(policy)
    model = compiled(mlp(), **how)
    op_by_op = backend() == "jax" and how == {"jit_compile": False}  # Seconds a step.
    history = fit(model, kprune.Pruning(0.9), n=32 if op_by_op else 256)
    assert zeros(model) == expected_zeros(model, 0.9)
    total = sum(value.size for value in kernels(model).values())
    assert history.history["sparsity"][-1] == sum(zeros(model).values()) / total
    assert history.history["sparsity"] == sorted(history.history["sparsity"])


@pytest.mark.fast_for("ema")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
        lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=5),
        lambda: keras.optimizers.AdamW(weight_decay=0.1, global_clipnorm=1.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 64)),
    ],
    ids=["accumulation", "ema", "ema-overwrite", "adamw-clip", "loss-scale", "lr-schedule"],
)
def test_exact_sparsity_with_every_kind_of_optimizer(optimizer):
    model = compiled(mlp(), optimizer())
    fit(model, kprune.Pruning(0.8))
    assert zeros(model) == expected_zeros(model, 0.8)


def test_default_schedule_comes_from_the_fit():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9), epochs=5, batch_size=8)  # 160 steps
    schedule = schedule_of(model)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == (16, 112, 2)
    assert sum(bool(schedule(step)[0]) for step in range(161)) == 49


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"begin": 0.0, "end": 1.0}, (0, 64, 1)),
        ({"begin": 4, "end": 40, "frequency": 10}, (4, 40, 10)),
        ({"begin": 0.5, "end": 60}, (32, 60, 1)),
    ],
)
def test_window_in_fractions_or_steps(arguments, expected):
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9, **arguments))
    schedule = schedule_of(model)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == expected
    assert zeros(model) == expected_zeros(model, 0.9)


def test_frequency_is_at_most_a_hundred():
    callback = kprune.Pruning(0.9)
    model = mlp()
    callback.set_model(compiled(model))
    callback.set_params({"epochs": 10, "steps": 5000})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    assert schedule_of(model).frequency == 100


@pytest.mark.slow
def test_steps_count_updates_under_gradient_accumulation():
    model = compiled(mlp(), keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    fit(model, kprune.Pruning(0.9, begin=0.0, end=1.0))  # 64 batches, 16 updates
    assert schedule_of(model).end_step == 16
    assert zeros(model) == expected_zeros(model, 0.9)


@pytest.mark.slow
def test_explicit_schedule_and_a_run_that_is_too_short():
    schedule = kprune.PolynomialDecay(0.0, 0.9, 0, 1000, power=1, frequency=10)
    model = compiled(mlp())
    with pytest.warns(UserWarning, match=r"ends at step 64.*end_step=1000.*sparsity 0\.054, not"):
        fit(model, kprune.Pruning(schedule=schedule))
    assert zeros(model) == expected_zeros(model, 0.054)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(compiled(mlp()), kprune.Pruning(0.9))


@pytest.mark.slow
def test_mask_updates_land_on_the_end():
    schedule = kprune.PolynomialDecay(0.0, 0.8, 10, 45, frequency=10)
    model = compiled(mlp())
    fit(model, kprune.Pruning(schedule=schedule))
    assert zeros(model) == expected_zeros(model, 0.8)


@pytest.mark.slow
def test_further_training_keeps_the_zeros():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9))
    before = {name: value == 0 for name, value in kernels(model).items()}
    fit(model, epochs=2)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value == 0, before[name])


@pytest.mark.slow
def test_a_second_fit_goes_on_from_the_first():
    model = compiled(mlp())
    callback = kprune.Pruning(0.5)
    fit(model, callback)
    first = {name: value == 0 for name, value in kernels(model).items()}
    history = fit(model, kprune.Pruning(0.9))
    assert min(history.history["sparsity"]) >= 0.499
    assert schedule_of(model).initial_sparsity == pytest.approx(0.5, abs=1e-3)
    assert zeros(model) == expected_zeros(model, 0.9)
    assert not isinstance(model.optimizer.base_optimizer, kprune.PruningOptimizer)
    for name, value in kernels(model).items():
        assert (first[name] <= (value == 0)).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False])
def test_a_sequential_built_by_fit(built):
    model = compiled(mlp(built=built))
    fit(model, kprune.Pruning(0.9))
    assert zeros(model) == expected_zeros(model, 0.9)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(16, activation="relu"), layers.Dense(16)]
        self.norm = layers.BatchNormalization()
        self.named = {"head": layers.Dense(2)}

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x)
        return self.named["head"](self.norm(x, training=training))


class Table(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 12), name="w")

    def call(self, x):
        return ops.tanh(ops.matmul(x, self.w))


def functional():
    shared = layers.Dense(20, activation="relu", name="shared")
    inside = keras.Input((20,))
    trunk = keras.Model(inside, layers.Dense(20)(Table()(inside)), name="trunk")
    x = keras.Input((20,))
    y = shared(x)
    y = trunk(shared(y)) + y
    return keras.Model(x, layers.Dense(2, name="head")(y))


@pytest.mark.fast_for("functional")
@pytest.mark.parametrize("make", [Subclassed, functional])
def test_every_kind_of_model(make):
    model = compiled(make())
    fit(model, kprune.Pruning(0.9))
    found = zeros(model)
    assert found == expected_zeros(model, 0.9)
    assert len(found) >= 3


@pytest.mark.slow
def test_multi_input_model_with_sequences():
    rng = np.random.default_rng(0)
    tokens, frames = keras.Input((8,), dtype="int32"), keras.Input((8, 4))
    x = layers.Embedding(30, 8)(tokens)
    x = layers.Concatenate()(
        [x, layers.Bidirectional(layers.LSTM(6, return_sequences=True))(frames)]
    )
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.TimeDistributed(layers.Dense(6))(x)
    x = layers.SeparableConv1D(6, 3)(x)
    x = layers.GRU(5)(x)
    model = compiled(keras.Model([tokens, frames], layers.Dense(2)(x)))
    inputs = [rng.integers(0, 30, (64, 8)), rng.normal(size=(64, 8, 4)).astype("float32")]
    labels = rng.integers(0, 2, 64)
    model.fit(inputs, labels, epochs=3, batch_size=8, verbose=0, callbacks=[kprune.Pruning(0.7)])
    pruned = {w.variable.path: w.variable for g in model.optimizer.groups for w in g.weights}
    assert len(pruned) == 15
    for variable in pruned.values():
        value = ops.convert_to_numpy(variable.value)
        assert (value == 0).sum() == round(0.7 * value.size)


def pairs():
    return [rows(8, 32), -rows(8, 32)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "x", "n"),
    [
        (Detector, lambda: rows(6, 32), 2),
        # The wrapper's train_step is not for JAX.
        (Siamese, pairs, 3) if backend() == "jax" else (Wrapper, pairs, 2),
        pytest.param(
            text,
            lambda: ops.convert_to_tensor(["a b", "g e e x"] * 16),
            3,
            marks=pytest.mark.skipif(backend() != "tensorflow", reason="Keras runs no strings"),
        ),
    ],
    ids=["unused layer", "siamese", "text"],
)
def test_models_that_are_not_built_in_every_layer(make, x, n):
    model, y = make(), np.zeros((32, 3 if make is Detector else 1))
    model.compile("adam", "mse")
    shares = []
    for callback in (kprune.Pruning(0.8), kprune.HoldZeros(), kprune.Pruning(0.8)):
        history = model.fit(x(), y, 8, epochs=2, verbose=0, callbacks=[callback])
        shares += history.history["sparsity"]
        assert zeros(model) == expected_zeros(model, 0.8)
        assert len(zeros(model)) == n
        model = kprune.strip_pruning(model)
        model.compile("adam", "mse")
    assert shares[1:] == [shares[1]] * 5
    assert kprune.sparsity(model).sparsity == shares[1]
    assert not isinstance(model.optimizer, kprune.PruningOptimizer)


def test_different_settings_for_different_layers():
    model = compiled(mlp())
    rules = {"head": None, "first": {"sparsity": 0.5, "pattern": kprune.Block((4, 1))}}
    fit(model, kprune.Pruning(0.8, layers=rules))
    found = zeros(model)
    assert found["head/kernel"] == 0
    assert found["first/kernel"] == 4 * round(0.5 * 5 * 33)
    assert found["second/kernel"] == round(0.8 * 33 * 17)


def test_nm_follows_the_schedule():
    model = compiled(mlp(features=20))
    history = fit(model, kprune.Pruning(0.5, pattern=kprune.NM(2, 4)), epochs=5)
    logged = history.history["sparsity"]
    assert 0 < logged[0] < 0.5
    value = kernels(model)["first/kernel"]
    assert ((value != 0).reshape(5, 4, 33).sum(axis=1) == 2).all()


@pytest.mark.slow
def test_learning_rate_callbacks_work():
    model = compiled(mlp())
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 10.0 ** -(epoch + 2))
    fit(model, kprune.Pruning(0.5), rates)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-5)


@pytest.mark.slow
def test_the_installed_optimizer_has_a_config():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.5, pattern=kprune.Block((2, 1))))
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model.optimizer)
    )
    assert again.get_config() == model.optimizer.get_config()
    assert again.schedule.final_sparsity == 0.5


@pytest.mark.slow
def test_averaged_weights_swap_sparse():
    model = compiled(mlp(), keras.optimizers.Adam(use_ema=True))
    fit(model, kprune.Pruning(0.8), keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    assert zeros(model) == expected_zeros(model, 0.8)


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


def snapshot(model):
    return [ops.convert_to_numpy(v.value).copy() for v in model.weights]


def bad_weights(value):
    model = mlp()
    kernel = ops.convert_to_numpy(model.get_layer("second").kernel.value).copy()
    kernel[3, 4] = value
    model.get_layer("second").kernel.assign(kernel)
    return model


@pytest.mark.parametrize(
    ("make", "callback", "kwargs", "message"),
    [
        (mlp, lambda: kprune.Pruning(0.5, layers="missing"), {}, "'missing'"),
        (lambda: bad_weights(np.nan), lambda: kprune.Pruning(0.5), {}, "second.*NaN or infinite"),
        (lambda: bad_weights(np.inf), lambda: kprune.Pruning(0.5), {}, "second.*NaN or infinite"),
        (
            lambda: keras.Sequential([keras.Input((20,)), layers.LayerNormalization()]),
            lambda: kprune.Pruning(0.5),
            {},
            "no weight that can be pruned",
        ),
        (
            mlp,
            lambda: kprune.Pruning(
                0.5, layers={"head": {"pattern": kprune.NM(1, 4), "sparsity": 0.9}}
            ),
            {},
            r"at most 0\.75",
        ),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(make, callback, kwargs, message):
    model = compiled(make())
    before, optimizer = snapshot(model), model.optimizer
    with pytest.raises(ValueError, match=message):
        fit(model, callback(), **kwargs)
    assert model.optimizer is optimizer
    for old, new in zip(before, snapshot(model)):
        np.testing.assert_array_equal(old, new)


def test_nothing_prunable_in_a_model_built_by_fit():
    model = compiled(keras.Sequential([layers.LayerNormalization()]))
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="no weight that can be pruned"):
        fit(model, kprune.Pruning(0.5))
    assert model.optimizer is optimizer


def test_a_wrapped_model_prunes_by_itself():
    model = compiled(kprune.prune_low_magnitude(mlp()))
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        fit(model, kprune.Pruning(0.5))


def test_a_run_of_unknown_length():
    def batches():
        x, y = data(64)
        for i in range(0, 64, 16):
            yield x[i : i + 16], y[i : i + 16]

    model = compiled(mlp())
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(batches(), verbose=0, callbacks=[kprune.Pruning(0.5)])
    assert model.optimizer is optimizer
    schedule = kprune.ConstantSparsity(0.5, 2)
    model.fit(batches(), verbose=0, callbacks=[kprune.Pruning(schedule=schedule)])
    assert zeros(model) == expected_zeros(model, 0.5)


def test_training_that_diverges_is_reported():
    model = compiled(mlp(), keras.optimizers.SGD(float("inf")))
    with pytest.raises(ValueError, match="diverged"):
        fit(model, kprune.Pruning(0.5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"Pruning\(0\.9\)"),
        ({"sparsity": 1.0}, ValueError, "would leave none"),
        ({"sparsity": -0.1}, ValueError, r"in \[0, 1\)"),
        ({"sparsity": 90}, ValueError, r"percentage.*0\.9"),
        ({"sparsity": 0.5, "schedule": kprune.ConstantSparsity(0.5, 0)}, ValueError, "not both"),
        ({"schedule": 0.5}, TypeError, "PruningSchedule"),
        ({"sparsity": 0.5, "begin": 0.8, "end": 0.2}, ValueError, "come after"),
        ({"sparsity": 0.5, "begin": 1.5}, ValueError, "fraction of the run"),
        ({"sparsity": 0.5, "frequency": 0}, ValueError, "frequency"),
        ({"sparsity": 0.9, "pattern": kprune.NM(2, 4)}, ValueError, r"at most 0\.5"),
        ({"sparsity": 0.9, "criterion": "magnitude"}, TypeError, "criterion"),
        ({"sparsity": 0.9, "allocation": 3}, TypeError, "allocation"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        kprune.Pruning(**arguments)


def test_an_uncompiled_model():
    with pytest.raises(ValueError, match="compile"):
        fit(mlp(), kprune.Pruning(0.5))


def test_settings_for_layers_that_are_given_a_sparsity_alone():
    model, (x, y) = compiled(mlp()), data()
    pruning = kprune.Pruning(layers={"second": 0.5}, pattern=kprune.Block((3, 1)), end=0.5)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    found = kernels(model)
    blocks = (found["second/kernel"].reshape(11, 3, 17) == 0).all(axis=1)
    assert blocks.sum() == round(0.5 * blocks.size)
    assert (found["first/kernel"] != 0).all()


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
