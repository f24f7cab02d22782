"""`Pruning` of models and layers of every kind."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.partly_built import Detector, Siamese, Wrapper, rows, text
from tests.helpers.training import backend, compiled, expected_zeros, fit, kernels, mlp, zeros


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
