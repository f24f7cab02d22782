import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import kprune
from kprune.pruning.allocation import check_allocation
from kprune.pruning.exact_count import units_to_prune

SHAPES = [(3, 3, 1, 8), (3, 3, 8, 16), (256, 64), (64, 10)]


@settings(max_examples=50)
@given(sparsity=st.floats(0, 0.999))
def test_erdos_renyi_sums_to_the_request(sparsity):
    shares = kprune.ErdosRenyiKernel().sparsities(SHAPES, sparsity)
    sizes = np.array([np.prod(s) for s in SHAPES])
    assert min(shares) >= -1e-9
    assert max(shares) < 1
    np.testing.assert_allclose((np.array(shares) * sizes).sum(), sparsity * sizes.sum(), atol=1e-6)
    densities = 1 - np.array(shares)
    ratios = np.array([sum(s) for s in SHAPES]) / sizes
    free = densities < 1 - 1e-9
    if free.any():
        np.testing.assert_allclose(np.ptp(densities[free] / ratios[free]), 0, atol=1e-6)


def test_traced_shares_equal_python():
    for sparsity in (0.1, 0.5, 0.9):
        python = kprune.ErdosRenyiKernel().sparsities(SHAPES, sparsity)
        traced = kprune.ErdosRenyiKernel().sparsities(SHAPES, ops.convert_to_tensor(sparsity))
        np.testing.assert_allclose([float(s) for s in traced], python, atol=1e-5)


def test_global_prunes_the_lowest_of_all():
    rng = np.random.default_rng(0)
    scores = [rng.uniform(size=s).astype("float32") * f for s, f in (((30, 20), 1), ((50,), 9))]
    counts = [(s.size, s.size) for s in scores]
    masks = kprune.Global().unit_masks(
        [ops.convert_to_tensor(s) for s in scores], counts, [s.shape for s in scores], 0.7, []
    )
    masks = [ops.convert_to_numpy(m) for m in masks]
    assert sum((~m).sum() for m in masks) == round(0.7 * 650)
    assert max(s[~m].max() for s, m in zip(scores, masks)) <= min(
        s[m].min() for s, m in zip(scores, masks)
    )
    assert masks[1].mean() > masks[0].mean()


def test_named_sparsities_are_counted_in_double_precision():
    # 0.9 in float32 is 0.89999998, and 0.9 * n rounds differently for this n.
    n = 16_777_215
    share = ops.convert_to_tensor(0.9, "float32")
    counts = units_to_prune(n, n, share, share, [(0.9, 0.9)])
    assert int(counts) == round(0.9 * n)


def test_wrong_kind():
    with pytest.raises(TypeError, match="Uniform"):
        check_allocation(0.5)
