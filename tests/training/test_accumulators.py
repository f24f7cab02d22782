"""What is accumulated in every step: in the step, in files, and beside loss scaling."""

import keras
import numpy as np
import pytest
from keras import ops

import kprune
from kprune.pruning import Fisher, Movement, Sensitivity
from tests.helpers.training import apply_step, compiled, expected_zeros, fit, mlp, zeros

CRITERIA = [Sensitivity, Movement, Fisher]
SCHEDULE = kprune.PolynomialDecay(0.0, 0.5, begin_step=4, end_step=8, frequency=2)


def _kernel(seed=0):
    value = np.random.default_rng(seed).normal(size=(4, 4)).astype("float32")
    return keras.Variable(value, name="kernel")


def _gradients(steps, seed=1):
    return np.random.default_rng(seed).normal(size=(steps, 4, 4)).astype("float32")


def _values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", CRITERIA)
def test_in_fit_the_sparsity_is_what_was_asked(kind, optimizer):
    model = compiled(mlp(), optimizer)
    fit(model, kprune.Pruning(0.8, criterion=kind()))
    assert zeros(model) == expected_zeros(model, 0.8)
    kprune.strip_pruning(model)


@pytest.mark.parametrize(
    "pattern", [kprune.Channels(round_to=1), kprune.Block((2, 1)), kprune.NM(2, 4)], ids=str
)
def test_every_pattern(pattern):
    model = compiled(mlp(), "sgd")
    fit(model, kprune.Pruning(0.5, criterion=Movement(), pattern=pattern))
    assert all(value.any() for value in _values(model.optimizer.accumulators.own))
    if isinstance(pattern, kprune.Channels):
        assert kprune.shrink(model).get_layer("first").units in (16, 17)
    else:
        found, expected = zeros(model)["second/kernel"], expected_zeros(model, 0.5)["second/kernel"]
        assert abs(found - expected) <= 17


def test_every_step_is_in_the_sum():
    kernel, gradients = _kernel(), _gradients(3)
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(0.0), SCHEDULE, Movement())
    for gradient in gradients:
        apply_step(optimizer, [gradient], [kernel])
    (found,) = _values(optimizer.accumulators.own)
    np.testing.assert_allclose(found, -_values([kernel])[0] * gradients.sum(0), 1e-5, 1e-6)


def test_the_weights_are_those_that_the_gradient_is_of():
    kernel, gradients = _kernel(), _gradients(2)
    first = _values([kernel])[0]
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(0.5), SCHEDULE, Movement())
    for gradient in gradients:
        apply_step(optimizer, [gradient], [kernel])
    expected = -first * gradients[0] - (first - 0.5 * gradients[0]) * gradients[1]
    np.testing.assert_allclose(_values(optimizer.accumulators.own)[0], expected, 1e-5, 1e-6)


def test_the_lowest_of_all_steps_go():
    kernel, gradients = _kernel(), _gradients(10)
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.0), kprune.ConstantSparsity(0.5, 10), Sensitivity()
    )
    for gradient in gradients:
        apply_step(optimizer, [gradient], [kernel])
    total = np.abs(gradients).sum(0)
    np.testing.assert_array_equal(_values([kernel])[0] != 0, total > np.median(total))


@pytest.mark.parametrize(
    ("base", "own"),
    [
        (lambda: keras.optimizers.Adam(0.01), 0),
        (lambda: keras.optimizers.RMSprop(0.01), 0),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01)), 0),
        (lambda: keras.optimizers.SGD(0.01, momentum=0.9), 1),
    ],
    ids=["Adam", "RMSprop", "scaled", "SGD"],
)
def test_fisher_uses_the_means_that_the_optimizer_has(base, own):
    optimizer = kprune.PruningOptimizer(base(), SCHEDULE, Fisher())
    optimizer.build([_kernel()])
    assert len(optimizer.accumulators.own) == own
    (read,) = optimizer.accumulators.read(0)
    assert tuple(read.shape) == (4, 4)


def test_nothing_is_kept_for_what_accumulates_nothing():
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(), SCHEDULE, kprune.Taylor())
    optimizer.build([_kernel()])
    assert not optimizer.accumulators.own
    assert len(optimizer.variables) == len(optimizer.base_optimizer.variables) + 1


def test_scaled_losses_and_steps_that_overflow():
    kernel, gradients = _kernel(), _gradients(2)
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=8.0),
        SCHEDULE,
        Sensitivity(),
    )
    apply_step(optimizer, [gradients[0] * 8], [kernel])
    apply_step(optimizer, [np.full((4, 4), np.inf, "float32")], [kernel])  # And halves the scale.
    apply_step(optimizer, [gradients[1] * 4], [kernel])
    (found,) = _values(optimizer.accumulators.own)
    np.testing.assert_allclose(found, np.abs(gradients).sum(0), 1e-5)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_files_have_it_and_open_without(name, tmp_path):
    def pruning():
        return kprune.Pruning(schedule=kprune.ConstantSparsity(0.5, 100), criterion=Movement())

    model = compiled(mlp(), "adam")
    kept = {}

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / name) if name.endswith(".keras") else (
                self.model.save_weights(tmp_path / name)
            )
            kept["before"] = _values(self.model.optimizer.accumulators.own)

    fit(model, pruning(), Save(), epochs=1)
    assert len(kept["before"]) == 3
    assert all(np.abs(value).sum() > 0 for value in kept["before"])

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.load_weights(tmp_path / name)

        def on_epoch_begin(self, epoch, logs=None):
            kept["after"] = _values(self.model.optimizer.accumulators.own)

    again = compiled(mlp(), "adam")
    fit(again, pruning(), Load(), epochs=1)
    for before, after in zip(kept["before"], kept["after"], strict=True):
        np.testing.assert_array_equal(before, after)
    if name.endswith(".keras"):
        plain = keras.models.load_model(tmp_path / name)
        assert int(plain.optimizer.iterations) == 16


def test_a_file_without_it():
    model = compiled(mlp(), "adam")
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(), SCHEDULE, Movement())
    optimizer.build(model.trainable_variables)
    optimizer.accumulators.load_own_variables({})
    optimizer.accumulators.load_own_variables({"0": np.ones((2, 2))})
    assert all((value == 0).all() for value in _values(optimizer.accumulators.own))


def test_a_weight_without_a_gradient_is_named():
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(), SCHEDULE, Movement())
    one, other = _kernel(), keras.Variable(np.ones((4, 4)), name="other_kernel")
    optimizer.build([one, other])
    with pytest.raises(ValueError, match=r"Movement.*needs gradients, and other_kernel has none"):
        optimizer.apply([np.ones((4, 4), "float32"), None], [one, other])


def test_a_second_fit_goes_on():
    model, seen = compiled(mlp(), "sgd"), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(_values(self.model.optimizer.accumulators.own))

        def on_train_end(self, logs=None):
            seen.append(_values(self.model.optimizer.accumulators.own))

    for _ in range(2):
        schedule = kprune.ConstantSparsity(0.5, 100)
        fit(model, kprune.Pruning(schedule=schedule, criterion=Sensitivity()), Watch(), epochs=1)
    first, end, second, _ = seen
    assert all((value == 0).all() for value in first)
    assert all(value.any() for value in end)
    for before, after in zip(end, second, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_backup_goes_on(tmp_path):
    kept = {}

    class Watch(keras.callbacks.Callback):
        def __init__(self, stop):
            super().__init__()
            self.stop = stop

        def on_epoch_begin(self, epoch, logs=None):
            kept.setdefault(f"begin {epoch}", _values(self.model.optimizer.accumulators.own))
            if epoch == self.stop:
                raise KeyboardInterrupt

    def train(stop=None):
        callbacks = [kprune.Pruning(0.5, criterion=Movement()), Watch(stop)]
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(compiled(mlp(), "sgd"), *callbacks, backup, epochs=3)

    with pytest.raises(KeyboardInterrupt):
        train(stop=2)
    before = kept.pop("begin 2")
    assert all(value.any() for value in before)
    train()
    for one, other in zip(before, kept["begin 2"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_is_loaded_before_it_is_built(tmp_path):
    def wrapped(model):
        return kprune.PruningOptimizer(keras.optimizers.SGD(0.1), SCHEDULE, Movement(), model=model)

    models = [compiled(mlp(), "sgd"), compiled(mlp(), "sgd")]
    optimizers = [wrapped(model) for model in models]
    optimizers[0].build(models[0].trainable_variables)
    for i, variable in enumerate(optimizers[0].accumulators.own):
        variable.assign(np.full(variable.shape, i + 1.0))
    store = {}
    optimizers[0].accumulators.save_own_variables(store)
    optimizers[1].accumulators.load_own_variables(store)
    optimizers[1].build(models[1].trainable_variables)
    for i, value in enumerate(_values(optimizers[1].accumulators.own)):
        np.testing.assert_array_equal(value, np.full(value.shape, i + 1.0))
