import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import kprune
from kprune.pruning.allocation import LAMP, check_allocation
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


def _masks(allocation, scores, sparsity):
    counts = [(s.size, s.size - 1) for s in scores]
    masks = allocation.unit_masks(
        [ops.convert_to_tensor(s) for s in scores], counts, [s.shape for s in scores], sparsity, []
    )
    masks = [ops.convert_to_numpy(m) for m in masks]
    total = allocation.total(counts, [s.shape for s in scores], sparsity)
    assert sum((~m).sum() for m in masks) == total
    return masks


@settings(max_examples=30)
@given(  # Of few sizes: JAX compiles for each.
    sizes=st.lists(st.sampled_from([2, 7, 60]), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 10**6),
)
def test_lamp_is_that_of_the_paper(sizes, sparsity, seed):
    rng = np.random.default_rng(seed)
    scores = [(rng.uniform(0.1, 1, n) * 10 ** rng.uniform(-3, 3)).astype("float32") for n in sizes]
    masks = _masks(LAMP(), scores, sparsity)
    expected = [s**2 / np.array([(s[s >= x] ** 2).sum() for x in s]) for s in scores]
    gone = np.concatenate([e[~m] for e, m in zip(expected, masks)])
    kept = np.concatenate([e[m] for e, m in zip(expected, masks)])
    assert gone.max(initial=0) <= kept.min() * (1 + 1e-4)
    assert all(m.any() for m in masks)


@settings(max_examples=30)
@given(
    kind=st.sampled_from([kprune.Global, LAMP]),
    floor=st.sampled_from([0.05, 0.2, 0.5]),
    seed=st.integers(0, 10**6),
)
def test_a_floor_keeps_its_share_of_each_weight(kind, floor, seed):
    rng = np.random.default_rng(seed)
    scores = [(rng.uniform(0.1, 1, n) * f).astype("float32") for n, f in ((40, 100), (60, 1))]
    masks = _masks(kind(floor), scores, 0.5)
    assert sum((~m).sum() for m in masks) == 50
    for m, s in zip(masks, scores):
        assert m.sum() >= np.ceil(floor * m.size - 1e-9)
        assert not (~m).any() or not m.any() or s[~m].max() <= s[m].min()


def test_a_floor_that_is_none():
    for bad in (1.0, -0.1, True, "0.1"):
        with pytest.raises(ValueError, match="floor"):
            kprune.Global(bad)
    with pytest.raises(ValueError, match=r"at most 0\.8"):
        kprune.Pruning(0.9, allocation=kprune.Global(floor=0.2))
    assert kprune.Global(0.1).get_config() == {"floor": 0.1}
    assert LAMP(0.1) != kprune.Global(0.1)


def test_units_that_a_pattern_keeps_stay():
    scores = ops.array([1.0, float("inf"), 2.0, 3.0])
    got = ops.convert_to_numpy(LAMP().scores(scores))
    np.testing.assert_allclose(got, [1 / 14, np.inf, 4 / 13, 1], 1e-6)


def test_named_sparsities_are_counted_in_double_precision():
    # 0.9 in float32 is 0.89999998, and 0.9 * n rounds differently for this n.
    n = 16_777_215
    share = ops.convert_to_tensor(0.9, "float32")
    counts = units_to_prune(n, n, share, share, [(0.9, 0.9)])
    assert int(counts) == round(0.9 * n)


def test_wrong_kind():
    with pytest.raises(TypeError, match="Uniform"):
        check_allocation(0.5)
