"""Masks and thresholds of wrapped layers, against TFMOT's."""

import numpy as np
import pytest
from keras import layers

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.reference import tfmot
from tests.helpers.training import backend, compiled
from tests.helpers.wrapped import (
    fit,
    numpy,
    wrapped_mlp,
    zeros,
)


def mask_of(layer, shape, **kwargs):
    wrapper = kprune.prune_low_magnitude(layer, **kwargs)
    wrapper(np.ones((1, *shape), "float32"), training=True)
    ((weight, mask, threshold),) = wrapper.pruning_vars
    return numpy(weight), numpy(mask), float(numpy(threshold))


@pytest.mark.parametrize(
    ("block_size", "pooling", "sparsity"),
    [((1, 1), "AVG", 0.3), ((1, 1), "MAX", 0.75), ((4, 1), "AVG", 0.75), ((2, 3), "MAX", 0.3)],
)
def test_masks_and_thresholds_are_those_of_tfmot(block_size, pooling, sparsity):
    if backend() != "tensorflow":
        pytest.skip("TFMOT runs on TensorFlow")
    tfmot()
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    schedule = kprune.ConstantSparsity(sparsity, 0)
    weight, mask, threshold = mask_of(
        layers.Dense(22),
        (13,),
        pruning_schedule=schedule,
        block_size=block_size,
        block_pooling_type=pooling,
    )
    theirs = pruning_impl.Pruning(lambda: 1, [], lambda step: (True, sparsity), block_size, pooling)
    if block_size != (1, 1):  # TFMOT's average counts the padding of a block at the edge.
        weight = weight[:12, :21]
        _, mask, threshold = mask_of(
            layers.Dense(21, kernel_initializer=lambda shape, dtype: weight),
            (12,),
            pruning_schedule=schedule,
            block_size=block_size,
            block_pooling_type=pooling,
        )
    expected_threshold, expected = theirs._maybe_update_block_mask(tf.constant(weight))
    np.testing.assert_array_equal(mask, expected.numpy().astype(bool))
    np.testing.assert_allclose(threshold, expected_threshold, rtol=1e-6)


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 4), (3, 4)])
def test_m_zeros_of_every_n_input_channels_as_in_tfmot(m_by_n):
    m, n = m_by_n
    if backend() == "jax" and m != 2:
        pytest.skip("seconds each, one op at a time")
    for layer, shape in ((layers.Dense(10), (16,)), (layers.Conv2D(6, 3), (5, 5, 8))):
        weight, mask, _ = mask_of(layer, shape, sparsity_m_by_n=m_by_n)
        groups = np.moveaxis(mask, -2, -1).reshape(-1, n)
        assert (groups.sum(-1) == n - m).all()
        if backend() == "tensorflow":
            tfmot()
            import tensorflow as tf
            from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

            theirs = pruning_impl.Pruning(lambda: 1, [], None, (1, 1), "AVG", m_by_n)
            expected = theirs._update_mask_sparsity_m_by_n(tf.constant(weight), m_by_n)
            np.testing.assert_array_equal(mask, expected.numpy().astype(bool))


@pytest.mark.slow
def test_m_by_n_follows_the_schedule_as_far_as_it_goes():
    schedule = kprune.PolynomialDecay(0.1, 0.8, 0, 14, frequency=2)
    with pytest.warns(UserWarning, match="sparsity of 0.5"):
        model = compiled(wrapped_mlp(schedule, sparsity_m_by_n=(2, 4)))
    fit(model, kprune.UpdatePruningStep(), steps=2)
    assert all(
        0 < mask < 0.4 * numpy(w).size
        for (w, _, _), (_, mask) in zip(
            [v for wrapper in wrappers_in(model) for v in wrapper.pruning_vars], zeros(model)
        )
    )
    fit(model, kprune.UpdatePruningStep(), steps=12)
    first = numpy(wrappers_in(model)[0].pruning_vars[0][1])
    assert (first.T.reshape(-1, 4).sum(-1) == 2).all()
