import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from keras import ops

from kprune.pruning.exact_count import lowest_pruned
from kprune.pruning.masks import compute_mask
from kprune.pruning.patterns import NM, Block, Unstructured
from tests.helpers.reference import tfmot

# Eager JAX compiles every operation for every shape.
FAST = settings(max_examples=8 if keras.backend.backend() == "jax" else 40)
SPARSITIES = st.floats(0, 0.999)


def count(sparsity, n):
    """How many of n go: one always stays."""
    return min(round(sparsity * n), n - 1)


def sorted_mask(scores, count):
    """NumPy's answer: the first `count` of a stable sort are pruned."""
    mask = np.ones(scores.size, bool)
    mask[np.argsort(scores.reshape(-1), kind="stable")[:count]] = False
    return mask.reshape(scores.shape)


def as_numpy(tensor):
    return ops.convert_to_numpy(tensor)


@FAST
@given(
    scores=arrays(
        "float32",
        array_shapes(min_dims=1, max_dims=4, max_side=9),
        elements=st.floats(0, width=32, allow_nan=False, allow_infinity=True),
    ),
    sparsity=SPARSITIES,
)
def test_equals_a_stable_sort(scores, sparsity):
    mask = as_numpy(compute_mask(scores, sparsity))
    np.testing.assert_array_equal(mask, sorted_mask(scores, count(sparsity, scores.size)))


@FAST
@given(
    scores=arrays("int8", array_shapes(min_dims=1, max_dims=3), elements=st.integers(0, 3)),
    sparsity=SPARSITIES,
)
def test_ties_go_by_position(scores, sparsity):
    scores = scores.astype("float32")
    mask = as_numpy(compute_mask(scores, sparsity))
    np.testing.assert_array_equal(mask, sorted_mask(scores, count(sparsity, scores.size)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
def test_exact_count_in_every_float_type(dtype, sparsity):
    values = np.abs(np.random.default_rng(0).normal(size=(37, 41))).astype("float32")
    scores = ops.cast(ops.convert_to_tensor(values), dtype)
    mask = as_numpy(compute_mask(scores, sparsity))
    assert (~mask).sum() == round(sparsity * mask.size)
    kept, pruned = (as_numpy(ops.cast(scores, "float32"))[m] for m in (mask, ~mask))
    assert not pruned.size or pruned.max() <= kept.min()


def test_counts_over_several_tensors_at_once():
    rng = np.random.default_rng(1)
    scores = [rng.integers(0, 50, size=s).astype("float32") for s in ((4, 5), (3,), (2, 3, 4))]
    masks = lowest_pruned([ops.convert_to_tensor(s) for s in scores], 20)
    together = np.concatenate([s.reshape(-1) for s in scores])
    found = np.concatenate([as_numpy(m).reshape(-1) for m in masks])
    np.testing.assert_array_equal(found, sorted_mask(together, 20))


def test_compiled_gives_the_same():
    scores = np.random.default_rng(2).integers(0, 9, size=(64, 33)).astype("float32")
    expected = sorted_mask(scores, 1000)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        for jit in (False, True):
            run = tf.function(lambda s, k: lowest_pruned([s], k)[0], jit_compile=jit)
            np.testing.assert_array_equal(run(scores, 1000).numpy(), expected)
    elif backend == "jax":
        import jax

        run = jax.jit(lambda s, k: lowest_pruned([s], k)[0])
        np.testing.assert_array_equal(np.asarray(run(scores, 1000)), expected)
    else:
        pytest.skip("Keras does not compile on torch by default")


def test_same_masks_as_tfmot_without_ties():
    tfmot()
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TFMOT needs TensorFlow")
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_impl,
        pruning_schedule,
    )

    rng = np.random.default_rng(3)
    for block, pooling in (((1, 1), "AVG"), ((4, 1), "AVG"), ((2, 8), "MAX")):
        weight = rng.normal(size=(64, 48)).astype("float32")
        for sparsity in (0.1, 0.5, 0.77, 0.98):
            theirs = pruning_impl.Pruning(
                training_step_fn=lambda: 0,
                pruning_vars=[],
                pruning_schedule=pruning_schedule.ConstantSparsity(sparsity, 0),
                block_size=block,
                block_pooling_type=pooling,
            )._maybe_update_block_mask(tf.constant(weight))[1]
            ours = compute_mask(np.abs(weight), sparsity, Block(block, pooling))
            np.testing.assert_array_equal(as_numpy(ours), theirs.numpy().astype(bool))


@FAST
@given(
    rows=st.integers(1, 11),
    columns=st.integers(1, 11),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pooling=st.sampled_from(["AVG", "MAX"]),
    sparsity=SPARSITIES,
    lead=st.sampled_from([(), (3, 2)]),
)
def test_blocks_fall_as_one(rows, columns, block, pooling, sparsity, lead):
    scores = np.random.default_rng(4).uniform(size=(*lead, rows, columns)).astype("float32")
    mask = as_numpy(compute_mask(scores, sparsity, Block(block, pooling)))
    pooled, kept = [], []
    for index in np.ndindex(*lead, -(-rows // block[0]), -(-columns // block[1])):
        *position, i, j = index
        where = (*position, slice(i * block[0], (i + 1) * block[0]))
        where = (*where, slice(j * block[1], (j + 1) * block[1]))
        assert mask[where].all() or not mask[where].any()
        pooled.append(scores[where].mean() if pooling == "AVG" else scores[where].max())
        kept.append(mask[where].all())
    pooled, kept = np.array(pooled), np.array(kept)
    assert (~kept).sum() == count(sparsity, kept.size)
    if kept.any() and not kept.all():
        assert pooled[~kept].max() <= pooled[kept].min() * (1 + 1e-5)


def test_blocks_of_a_convolution_lie_along_its_channels():
    scores = np.ones((3, 3, 8, 8), "float32")
    scores[1, 2, 4:8, 5] = 0.0
    mask = as_numpy(compute_mask(scores, 1 / (3 * 3 * 2 * 8), Block((4, 1))))
    np.testing.assert_array_equal(mask, scores.astype(bool))


@FAST
@given(
    rows=st.integers(1, 17),
    columns=st.integers(1, 5),
    nm=st.sampled_from([(2, 4), (1, 4), (1, 2), (3, 4), (4, 8)]),
    done=st.floats(0, 1),
)
def test_nm_tightens_to_the_pattern(rows, columns, nm, done):
    n, m = nm
    scores = np.random.default_rng(5).uniform(size=(2, rows, columns)).astype("float32")
    pattern = NM(n, m)
    total, most = pattern.count(scores.shape)
    sparsity = (1 - n / m) * done
    mask = as_numpy(compute_mask(scores, sparsity, pattern))
    assert (~mask).sum() == min(round(sparsity * total), most)
    for start in range(0, rows, m):
        group = mask[:, start : start + m]
        assert (group.sum(axis=1) >= min(n, group.shape[1])).all()
        if done == 1 and rows % m == 0:
            assert (group.sum(axis=1) == n).all()
            expected = np.sort(scores[:, start : start + m], axis=1)[:, m - n :]
            kept = np.where(group, scores[:, start : start + m], -1)
            np.testing.assert_array_equal(np.sort(kept, axis=1)[:, m - n :], expected)


def test_nm_ties_keep_exactly_n():
    mask = as_numpy(compute_mask(np.ones((8, 3), "float32"), 0.5, NM(2, 4)))
    np.testing.assert_array_equal(mask.reshape(2, 4, 3).sum(axis=1), 2)


def test_axes_say_where_the_channels_are():
    scores = np.random.default_rng(6).uniform(size=(3, 3, 6, 8)).astype("float32")
    for pattern in (Block((4, 1)), NM(2, 4)):
        mask = as_numpy(compute_mask(scores, 0.5, pattern, axes=(-1, -2)))
        swapped = as_numpy(compute_mask(scores.swapaxes(-1, -2), 0.5, pattern))
        np.testing.assert_array_equal(mask, swapped.swapaxes(-1, -2))


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_bad_scores_are_refused(bad):
    scores = np.ones(10, "float32")
    scores[3] = bad
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "-1"):
        compute_mask(scores, 0.5)


def test_patterns_need_channels():
    for pattern in (Block((4, 1)), NM(2, 4)):
        with pytest.raises(ValueError, match="rank 2"):
            compute_mask(np.ones(10, "float32"), 0.5, pattern)
    assert as_numpy(compute_mask(np.ones(10, "float32"), 0.5, Unstructured())).sum() == 5
