"""What a wrapped layer computes, in training and in inference, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training import SparseVariationalDropout
from tests.training.variational.test_divergence import formula
from tests.training.variational.test_local_reparametrization import Twice

DRAWS = 4000


def numpy(value):
    return ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(value)))


def wrapped(layer, x, log_sigma2=None, **kwargs):
    """The layer, wrapped and built, with variances that differ."""
    wrapper = SparseVariationalDropout(layer, kl_scale=1e-3, **kwargs)
    wrapper(x)
    shape = wrapper.log_sigma2[0].shape
    if log_sigma2 is None:
        log_sigma2 = np.random.default_rng(2).uniform(-4, -1, shape)
    wrapper.log_sigma2[0].assign(np.broadcast_to(log_sigma2, shape))
    return wrapper


def convolved(x, kernel, stride):
    """A convolution without padding: a sum of products."""
    side = (x.shape[1] - kernel.shape[0]) // stride + 1
    out = np.zeros((len(x), side, side, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            top, left = i * stride, j * stride
            patch = x[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
            out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out


def check_moments(found, mean, variance):
    """Of many draws: 5 standard errors are seldom exceeded, and never with a fixed seed."""
    deviation = np.sqrt(variance)
    assert np.all(np.abs(found.mean(0) - mean) < 5 * deviation / np.sqrt(len(found)))
    np.testing.assert_allclose(found.std(0), deviation, rtol=5 / np.sqrt(2 * len(found)))


def test_outputs_of_dense_have_the_mean_and_variance_of_noisy_weights():
    x = np.random.default_rng(0).normal(size=(1, 6)).astype("float32")
    layer = layers.Dense(4, bias_initializer="normal")
    wrapper = wrapped(layer, x)
    found = numpy(wrapper(np.repeat(x, DRAWS, 0), training=True))
    mean = x @ numpy(layer.kernel) + numpy(layer.bias)
    check_moments(found, mean[0], (x**2 @ np.exp(numpy(wrapper.log_sigma2[0])))[0])


def test_outputs_of_a_strided_convolution_too():
    x = np.random.default_rng(0).normal(size=(1, 7, 7, 2)).astype("float32")
    layer = layers.Conv2D(3, 3, strides=2, bias_initializer="normal")
    wrapper = wrapped(layer, x)
    found = numpy(wrapper(np.repeat(x, DRAWS, 0), training=True))
    mean = convolved(x, numpy(layer.kernel), 2) + numpy(layer.bias)
    variance = convolved(x**2, np.exp(numpy(wrapper.log_sigma2[0])), 2)
    check_moments(found, mean[0], variance[0])


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: layers.Embedding(4, 3), np.zeros((1, 1), "int32")),
        (lambda: Twice(3), np.ones((1, 4), "float32")),
    ],
)
def test_other_layers_have_noise_on_their_weights(make, x):
    wrapper = wrapped(make(), x)
    draws = np.stack([numpy(wrapper(x, training=True)).ravel() for _ in range(400)])
    kernel, variance = numpy(wrapper.noisy_variables[0]), np.exp(numpy(wrapper.log_sigma2[0]))
    if isinstance(wrapper.layer, Twice):
        check_moments(draws, 2 * x[0] @ kernel, 4 * x[0] @ variance)
    else:
        check_moments(draws, kernel[0], variance[0])
    # The same for all examples of a batch.
    several = numpy(wrapper(np.repeat(x, 3, 0), training=True))
    np.testing.assert_array_equal(several[0], several[2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(3),
        lambda: layers.SeparableConv1D(3, 2),
        lambda: layers.TimeDistributed(layers.Dense(3)),
    ],
)
def test_layers_of_several_kernels_and_inner_layers(make):
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    layer = make()
    wrapper = SparseVariationalDropout(layer, threshold=9.9, kl_scale=1.0)
    wrapper(x)
    assert len(wrapper.log_sigma2) == sum(len(v.shape) > 1 for v in layer.trainable_variables)
    first, second = (numpy(wrapper(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_array_equal(numpy(wrapper(x)), numpy(layer(x)))


def test_in_inference_what_is_mostly_noise_is_zero():
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    layer = layers.Dense(4, activation="relu")
    wrapper = wrapped(layer, x, np.array([-20.0, 20.0, -20.0, 20.0]), threshold=3.0)
    kernel = numpy(layer.kernel) * [1, 0, 1, 0]
    expected = np.maximum(x @ kernel, 0)
    np.testing.assert_allclose(numpy(wrapper(x)), expected, rtol=1e-5, atol=1e-6)
    assert wrapper.count_noise() == 12
    assert (numpy(layer.kernel) != 0).all()  # Until it is stripped.
    wrapper.mask_weights()
    np.testing.assert_array_equal(numpy(layer.kernel), kernel.astype("float32"))


def test_the_divergence_is_added_to_the_loss_once_a_step_and_only_in_training():
    layer = layers.Dense(3, use_bias=False)
    shared = SparseVariationalDropout(layer, kl_scale=0.01, initial_log_sigma2=-5)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, shared(shared(inputs)))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.zeros((4, 3), "float32")
    kl = formula(np.clip(-5 - np.log(numpy(layer.kernel).astype("float64") ** 2), -10, 10)).sum()
    np.testing.assert_allclose(float(numpy(shared.kl())), kl, rtol=1e-5)
    np.testing.assert_allclose(model.train_on_batch(x, x), 0.01 * kl, rtol=1e-4)
    assert model.test_on_batch(x, x) == 0


def test_losses_of_the_wrapped_layer_stay():
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    wrapper = wrapped(layers.Dense(2, activity_regularizer="l2", kernel_regularizer="l2"), x)
    wrapper(x, training=True)
    assert len(wrapper.losses) == 3
    wrapper(x)
    assert len(wrapper.losses) == 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_noise_in_mixed_precision_is_drawn_in_float32(policy):
    # Squares of these inputs, and these variances, are beyond float16.
    x = np.full((1, 4), 500, "float32")
    wrapper = wrapped(layers.Dense(3, dtype=policy), x, -30.0)
    found = wrapper(np.repeat(x, DRAWS, 0), training=True)
    assert keras.backend.standardize_dtype(found.dtype) == policy.removeprefix("mixed_")
    assert wrapper.log_sigma2[0].dtype == "float32"
    assert np.isfinite(numpy(ops.cast(found, "float32"))).all()
    (loss,) = wrapper.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


def test_noise_that_no_weight_in_the_loss_is_refused():
    wrapper = SparseVariationalDropout(layers.Dense(2, name="head"))
    x = np.ones((1, 2), "float32")
    wrapper(x)
    with pytest.raises(ValueError, match=r"'sparse_variational_dropout_head'.*KLWarmUp"):
        wrapper(x, training=True)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"threshold": "3"}, "`threshold` must"),
        ({"threshold": float("nan")}, "`threshold` must"),
        ({"initial_log_sigma2": None}, "`initial_log_sigma2` must"),
        ({"kl_scale": 0}, "`kl_scale` must"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        SparseVariationalDropout(layers.Dense(2), **arguments)


def test_what_cannot_be_wrapped():
    with pytest.raises(TypeError, match="wraps a layer"):
        SparseVariationalDropout(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="wraps a layer"):
        SparseVariationalDropout("dense")
    with pytest.raises(ValueError, match="wrapped already"):
        SparseVariationalDropout(kprune.prune_low_magnitude(layers.Dense(2)))
    with pytest.raises(ValueError, match="no weight that can be wrapped"):
        SparseVariationalDropout(layers.ReLU())
