"""The divergence against the paper's formula, in NumPy."""

import numpy as np
from keras import ops

from kprune.training.variational.divergence import kl_divergence, log_alpha


def formula(log_alpha):
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    sigmoid = 1 / (1 + np.exp(-(k2 + k3 * log_alpha)))
    return -(k1 * sigmoid - 0.5 * np.log(1 + 1 / np.exp(log_alpha)) - k1)


def test_the_divergence_is_the_papers_and_falls_with_the_noise():
    alphas = np.linspace(-10, 10, 201)
    found = ops.convert_to_numpy(kl_divergence(ops.convert_to_tensor(alphas.astype("float32"))))
    np.testing.assert_allclose(found, formula(alphas), rtol=1e-4, atol=1e-6)
    # Differences in float32 say nothing where it is 0 almost.
    assert (np.diff(found)[alphas[1:] < 6] < 0).all()
    assert 0 <= found[-1] < 1e-4


def test_the_noise_of_a_weight():
    theta = np.array([[1.0, -0.1, 0.0], [10.0, 1e-3, 2.0]], "float32")
    log_sigma2 = np.array([[-2.0, 0.0, -5.0], [-10.0, -5.0, 3.0]], "float32")
    found = log_alpha(ops.convert_to_tensor(theta), ops.convert_to_tensor(log_sigma2))
    with np.errstate(divide="ignore"):
        expected = np.clip(log_sigma2 - np.log(theta.astype("float64") ** 2), -10, 10)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)
    assert (expected == 10).any()
    assert (expected == -10).any()
