"""Whole models: trained, stripped, saved in mid-training."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training import KLWarmUp, SparseVariationalDropout, sparse_variational_dropout
from kprune.training.strip import find_pruning
from kprune.training.variational.wrapper import noisy_layers_in
from tests.helpers.training import compiled, data, kernels, mlp, zeros
from tests.helpers.wrapped import Subclassed


def digits(n=512):
    """Images whose class is where a bright bar is."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 0.3, (n, 12, 12, 1)).astype("float32"), rng.integers(0, 4, n)
    for image, label in zip(x, y):
        image[3 * label : 3 * label + 3] += 0.7
    return x, y


def lenet():
    image = keras.Input((12, 12, 1))
    x = layers.MaxPooling2D()(layers.Conv2D(6, 5, activation="relu", name="conv")(image))
    x = layers.Dense(40, activation="relu", name="fc1")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(4, name="fc2")(x))


def trained(epochs=12, **kwargs):
    model = compiled(
        sparse_variational_dropout(lenet(), **kwargs),
        keras.optimizers.Adam(1e-2),
        metrics=["accuracy"],
    )
    history = model.fit(
        *digits(), epochs=epochs, batch_size=16, verbose=0, callbacks=[KLWarmUp(warm_up=0.3)]
    )
    return model, history.history


def test_a_small_lenet_gets_sparse_and_is_plain_once_it_is_stripped(tmp_path):
    model, history = trained()
    assert history["sparsity"][-1] > 0.8
    assert history["kl"][-1] < history["kl"][0]
    assert len(find_pruning(model)) == 3
    x, y = digits()
    before = model.predict(x, verbose=0)
    assert np.mean(before.argmax(1) == y) > 0.97
    stripped = kprune.strip_pruning(model)
    assert find_pruning(stripped) == []
    assert [layer.name for layer in stripped.layers[1:]] == [
        "conv", "max_pooling2d", "flatten", "fc1", "fc2",
    ]  # fmt: skip
    assert not any(isinstance(one, SparseVariationalDropout) for one in stripped.layers)
    np.testing.assert_array_equal(stripped.predict(x, verbose=0), before)
    share = sum(zeros(stripped).values()) / sum(value.size for value in kernels(stripped).values())
    np.testing.assert_allclose(share, history["sparsity"][-1], rtol=1e-6)
    np.testing.assert_allclose(kprune.sparsity(stripped).sparsity, share, rtol=1e-6)
    stripped.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), before)


@pytest.mark.slow
def test_zeros_are_held_in_further_training_and_missed_without():
    stripped = compiled(kprune.strip_pruning(trained(epochs=4, initial_log_sigma2=-4.0)[0]))
    before = zeros(stripped)
    stripped.fit(*digits(64), verbose=0, callbacks=[kprune.HoldZeros()])
    assert zeros(stripped) == before
    stripped = compiled(kprune.strip_pruning(stripped))
    with pytest.warns(UserWarning, match="grow back"):
        stripped.fit(*digits(64), verbose=0)


def test_saved_in_mid_training_it_goes_on_as_if_it_had_never_stopped(tmp_path):
    def fit(model, **kwargs):
        x, y = data(128)
        callbacks = [KLWarmUp(warm_up=0.8)]
        model.fit(x, y, 32, shuffle=False, verbose=0, callbacks=callbacks, **kwargs)

    model = compiled(sparse_variational_dropout(mlp(), threshold=2.0, initial_log_sigma2=-6))
    fit(model, epochs=2)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for wrapper, before in zip(noisy_layers_in(loaded), noisy_layers_in(model)):
        config = wrapper.get_config()
        assert (config["threshold"], config["initial_log_sigma2"]) == (2, -6)
        # Keras saves no state of random numbers.
        wrapper._seed_generator.state.assign(ops.convert_to_numpy(before._seed_generator.state))
    for each in (model, loaded):
        fit(each, epochs=4, initial_epoch=2)
    for a, b in zip(model.variables, loaded.variables):
        assert a.name == b.name
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (a, b)), rtol=1e-6, atol=1e-7)


def test_a_loaded_model_needs_the_callback_again(tmp_path):
    model = compiled(sparse_variational_dropout(mlp()))
    x, y = data(64)
    model.fit(x, y, verbose=0, callbacks=[KLWarmUp()])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="KLWarmUp"):
        loaded.fit(x, y, verbose=0)


@pytest.mark.slow
def test_which_layers_are_wrapped():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 8)(tokens)
    x = layers.LayerNormalization()(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    frozen = layers.Dense(4, trainable=False)
    inner = keras.Sequential([keras.Input((6, 8)), layers.Flatten(), frozen, layers.Dense(2)])
    model = compiled(sparse_variational_dropout(keras.Model(tokens, inner(x)), 3.0, -5.0))
    names = [type(wrapper.layer).__name__ for wrapper in noisy_layers_in(model)]
    assert names == ["Embedding", "Bidirectional", "MultiHeadAttention", "Dense"]
    x = np.random.default_rng(0).integers(0, 30, (32, 6))
    model.fit(x, x[:, 0] % 2, verbose=0, callbacks=[KLWarmUp(warm_up=0)])
    report = kprune.sparsity(model)
    assert not any("log_sigma2" in row.name for row in report)
    # Wrapped already, so nothing is done to it.
    assert noisy_layers_in(sparse_variational_dropout(model)) == noisy_layers_in(model)


@pytest.mark.slow
def test_a_model_of_a_class_of_its_own_changes_in_place():
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
    model(x)
    assert sparse_variational_dropout(model) is model
    assert len(noisy_layers_in(model)) == 7
    model.compile("adam", {name: "sparse_categorical_crossentropy" for name in "ab"})
    y = np.zeros(32, "int32")
    model.fit(x, {"a": y, "b": y}, verbose=0, callbacks=[KLWarmUp()])
    for wrapper in noisy_layers_in(model):
        wrapper.log_sigma2[0].assign(np.full(wrapper.log_sigma2[0].shape, -30.0))
    first = noisy_layers_in(model)[0]
    first.log_sigma2[0].assign(np.where(np.arange(8) < 4, 9.0, -30.0) + np.zeros((20, 8)))
    assert kprune.strip_pruning(model) is model
    assert noisy_layers_in(model) == []
    assert int((ops.convert_to_numpy(model.first.kernel) == 0).sum()) == 80


def test_layers_and_lists():
    dense = sparse_variational_dropout(layers.Dense(2, name="head"))
    assert isinstance(dense, SparseVariationalDropout)
    first, other = sparse_variational_dropout([layers.Dense(8), layers.ReLU()])
    assert isinstance(first, SparseVariationalDropout)
    assert not isinstance(other, SparseVariationalDropout)
    model = compiled(keras.Sequential([first, other, dense]))  # Built by `fit`.
    x, y = data(64)
    model.fit(x, y, verbose=0, callbacks=[KLWarmUp()])
    assert all(len(wrapper.log_sigma2) == 1 for wrapper in noisy_layers_in(model))


def test_what_has_no_zeros_yet_is_not_stripped():
    model = sparse_variational_dropout(mlp())
    for wrapper in noisy_layers_in(model):
        wrapper.log_sigma2[0].assign(np.full(wrapper.log_sigma2[0].shape, -30.0))
    with pytest.raises(ValueError, match=r"nothing to strip.*longer, with SparseVariational"):
        kprune.strip_pruning(model)


def test_a_layer_of_noise_alone_is_warned_of():
    model = sparse_variational_dropout(mlp())
    head = noisy_layers_in(model)[-1]
    head.log_sigma2[0].assign(np.full(head.log_sigma2[0].shape, 30.0))
    with pytest.warns(UserWarning, match=r"All weights of .*head/kernel are noise"):
        kprune.strip_pruning(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = sparse_variational_dropout(mlp())
        noisy_layers_in(model)[-1].log_sigma2[0].assign(np.full((17, 2), [-9.0, 9.0]))
        kprune.strip_pruning(model)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: "model", TypeError, "wraps a layer"),
        (lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]), ValueError, "no layer"),
        (layers.ReLU, ValueError, "no weight that can be wrapped"),
    ],
)
def test_what_cannot_be_wrapped(make, error, match):
    with pytest.raises(error, match=match):
        sparse_variational_dropout(make())


def test_bad_arguments():
    with pytest.raises(ValueError, match="kl_scale=-1"):
        sparse_variational_dropout(mlp(), kl_scale=-1)


def test_pruning_to_a_sparsity_comes_after_it():
    model = compiled(sparse_variational_dropout(mlp()))
    with pytest.raises(ValueError, match="strip_pruning"):
        model.fit(*data(), verbose=0, callbacks=[KLWarmUp(), kprune.Pruning(0.5)])
