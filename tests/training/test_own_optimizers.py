"""Models whose `train_step` uses optimizers of its own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.strip import find_pruning
from tests.helpers.training import backend, compiled, data, expected_zeros, kernels, mlp, zeros

pytestmark = pytest.mark.skipif(
    backend() == "jax", reason="Keras' train_step on JAX carries the state of one optimizer only"
)


class Gan(keras.Model):
    """The recipe of Keras' examples, on TensorFlow and torch."""

    def __init__(self, critic_steps=1):
        super().__init__()
        self.g = keras.Sequential([keras.Input((8,)), layers.Dense(32), layers.Dense(16)])
        self.d = keras.Sequential([keras.Input((16,)), layers.Dense(32), layers.Dense(1)])
        self.critic_steps = critic_steps
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

    def compile(self, **optimizers):
        super().compile()  # which makes an optimizer that nothing uses.
        for name, optimizer in optimizers.items():
            setattr(self, name, optimizer)

    def call(self, z):
        return self.d(self.g(z))

    def optimizer_of(self, which):
        return self.optimizers[which] if hasattr(self, "optimizers") else getattr(self, which)

    def train_step(self, real):
        real = real[0] if isinstance(real, tuple) else real
        z = keras.random.normal((16, 8))
        one = ops.ones((16, 1))
        for _ in range(self.critic_steps):
            d = self.step("d", lambda: self.bce(one, self.d(real)) + self.bce(0 * one, self(z)))
        return {"d": d, "g": self.step("g", lambda: self.bce(one, self(z)))}

    def step(self, which, loss_of):
        variables = getattr(self, which).trainable_weights
        optimizer = self.optimizer_of(which + "_opt")
        if backend() == "torch":
            import torch

            self.zero_grad()
            loss = loss_of()
            loss.backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables)
            return loss
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of()
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


def adam():
    return keras.optimizers.Adam()


def fit(model, *callbacks, epochs=3):
    real = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    return model.fit(real, epochs=epochs, batch_size=16, verbose=0, callbacks=list(callbacks))


def gan(**kwargs):
    model = Gan(**kwargs)
    model.build((None, 8))
    return model


@pytest.mark.fast_for("attributes")
@pytest.mark.filterwarnings("error::UserWarning:kprune")
@pytest.mark.parametrize("kept_in", ["attributes", "dict"])
def test_each_optimizer_prunes_what_it_trains(kept_in):
    model = gan()
    own = {"d_opt": adam(), "g_opt": adam()}
    model.compile(**(own if kept_in == "attributes" else {"optimizers": own}))
    history = fit(model, kprune.Pruning(0.8))
    assert zeros_of(model) == expected_of(model, 0.8)
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=2e-3)
    assert len(find_pruning(model)) >= 2
    stripped = kprune.strip_pruning(model)
    assert stripped is model
    assert find_pruning(model) == []
    assert [model.optimizer_of("d_opt"), model.optimizer_of("g_opt")] == list(own.values())
    assert zeros_of(model) == expected_of(model, 0.8)


def zeros_of(model):
    return [int((w == 0).sum()) for w in model.get_weights() if w.ndim == 2]


def expected_of(model, sparsity):
    return [round(sparsity * w.size) for w in model.get_weights() if w.ndim == 2]


@pytest.mark.slow
def test_an_optimizer_that_makes_several_steps_a_batch():
    model = gan(critic_steps=5)
    model.compile(d_opt=adam(), g_opt=adam())
    history = fit(model, kprune.Pruning(0.8), epochs=10)
    assert zeros_of(model) == expected_of(model, 0.8)
    # It rises over the whole run, and not in its first fifth.
    shares = history.history["sparsity"]
    assert shares[2] < 0.75
    assert shares == sorted(shares)


@pytest.mark.filterwarnings("ignore:What is stripped")
def test_an_optimizer_that_cannot_be_found_is_told_of():
    hidden = {"d_opt": adam(), "g_opt": adam()}

    class Hiding(Gan):
        def optimizer_of(self, which):
            return hidden[which]

    model = Hiding()
    model.build((None, 8))
    model.compile()
    with pytest.warns(UserWarning, match=r"never made a step.*attribute of the model"):
        fit(model, kprune.Pruning(0.8))
    assert sum(zeros_of(model)) == 0


@pytest.mark.slow
def test_one_optimizer_of_two_may_be_all_that_prunes():
    model = gan()
    model.compile(d_opt=adam(), g_opt=adam())
    fit(model, kprune.Pruning(0.8, layers={model.d: None}))
    found, expected = zeros_of(model), expected_of(model, 0.8)
    assert found == [*expected[:2], 0, 0]


def test_two_callbacks_before_any_optimizer_knows_what_it_trains():
    model = gan()
    model.compile(d_opt=adam(), g_opt=adam())
    fit(model, kprune.Pruning(0.8, layers=model.d), kprune.Pruning(0.5, layers=model.g))
    found, expected = zeros_of(model), expected_of(model, 0.8)
    assert found == expected_of(model, 0.5)[:2] + expected[2:]


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_callback_that_fails_in_the_first_step_leaves_the_optimizers_as_they_were(wrong):
    model, own = gan(), [adam(), adam()]
    model.compile(d_opt=own[0], g_opt=own[1])
    callbacks = [kprune.Pruning(0.8, layers=model.d), kprune.Pruning(0.5, layers="missing")]
    with pytest.raises(ValueError, match="'missing'"):
        fit(model, *(callbacks if wrong else callbacks[::-1]))
    assert [model.d_opt, model.g_opt] == own
    assert find_pruning(model) == []


@pytest.mark.slow
def test_the_same_optimizer_under_two_names():
    model = compiled(mlp())
    model.again = model.optimizer
    x, y = data(64)
    model.fit(x, y, 16, epochs=4, verbose=0, callbacks=[kprune.Pruning(0.8)])
    assert model.again is model.optimizer
    assert zeros(model) == expected_zeros(model, 0.8)
    kprune.strip_pruning(model)
    assert model.again is model.optimizer
    assert len(kernels(model)) == 3
