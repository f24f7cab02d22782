"""Sizes of tensors follow the channels of groups: found out from two cuts."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kprune.search.latency.sizes import SizeMap, alike, probes


def mapped(rule, counts, free=None):
    """A `SizeMap` of what a rule makes of numbers of channels: a list of operators' shapes."""
    counts = np.array(counts)
    kept = probes(counts, np.ones(len(counts), bool) if free is None else np.array(free))
    return SizeMap([rule(numbers) for numbers in [counts, *kept]], counts, kept)


counts = st.lists(st.integers(8, 200), min_size=1, max_size=8)


@settings(max_examples=40)
@given(counts, st.integers(0, 1000))
def test_multiples_of_each_group(numbers, seed):
    def rule(kept):
        return [((1, 6, int(k)), (3, 3, int(k), 4 * int(k)), (7,)) for k in kept]

    wanted = np.random.default_rng(seed).integers(1, np.array(numbers) + 1)
    sizes = mapped(rule, numbers)
    assert sizes.approximate == 0
    assert sizes(wanted) == rule(wanted)


@settings(max_examples=40)
@given(counts.filter(lambda found: len(found) > 1), st.integers(0, 1000))
def test_what_is_concatenated_one_by_one(numbers, seed):
    """As in a DenseNet, whose bottlenecks have groups of their own between the others."""

    def rule(kept):
        shapes, whole = [], int(kept[0])
        for k in map(int, kept[1:]):
            shapes += [((5, k), (5, k)), ((5, whole), (5, k), (5, whole + k))]
            whole += k
        return [*shapes, ((1, 16 * whole), (16 * whole,))]

    wanted = np.random.default_rng(seed).integers(1, np.array(numbers) + 1)
    sizes = mapped(rule, numbers)
    assert sizes(np.array(numbers)) == rule(numbers)
    assert sizes.approximate == 0
    assert sizes(wanted) == rule(wanted)


@settings(max_examples=40)
@given(st.integers(2, 16), st.integers(8, 64), st.integers(16, 256))
def test_heads_times_what_each_has(heads, each, hidden):
    assume(len({heads, each, hidden, heads * each}) == 4)

    def rule(kept):
        h, e, d = map(int, kept)
        return [((1, h, 9, e), (1, 9, h * e)), ((h * e, d), (3 * h * e,))]

    sizes = mapped(rule, [heads, each, hidden])
    wanted = np.array([max(1, heads // 2), each // 3, hidden // 2])
    assert sizes(wanted) == rule(wanted)


def test_a_constant_besides_channels_and_values_that_shrink_as_channels_grow():
    def rule(kept):
        k = int(kept[0])
        return [((1, k + 3), (1, 64)), ((0, 61 - k, -1, 0), (k,))]

    sizes = mapped(rule, [40, 50])
    assert sizes([13, 50]) == rule([13])


def test_channels_that_stay_are_constant():
    sizes = mapped(lambda kept: [((2, int(kept[0])), (int(kept[1]),))], [32, 32], [True, False])
    assert sizes([10, 32]) == [((2, 10), (32,))]


def test_what_nothing_explains_is_approximated():
    def rule(kept):
        a, b, c = map(int, kept)
        return [((a,), (b,), (c,)), ((round((a * b * c) ** 0.5),),)]

    sizes = mapped(rule, [64, 96, 32])
    assert sizes.approximate == 1
    assert sizes([64, 96, 32]) == rule([64, 96, 32])
    ((size,),) = sizes([32, 48, 16])[1]
    assert 1 <= size < rule([64, 96, 32])[1][0][0]


@pytest.mark.parametrize("number", [2, 40])
def test_probes_tell_groups_apart(number):
    counts = np.full(number, 64)
    kept = probes(counts, np.ones(number, bool))
    assert len({tuple(column) for column in kept.T}) == number
    assert (kept >= 1).all()
    assert (kept <= counts).all()


@pytest.mark.parametrize(("number", "needed"), [(2, 2), (6, 2), (20, 3)])
def test_many_groups_of_few_channels_have_more_probes(number, needed):
    kept = probes(np.full(number, 4), np.ones(number, bool))
    assert len(kept) == needed
    assert len({tuple(column) for column in kept.T}) == number


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=30))
def test_groups_of_any_counts_are_told_apart(numbers):
    counts, free = np.array(numbers), np.ones(len(numbers), bool)
    kept = probes(counts, free)
    shares = {tuple(column) for column in (kept / counts).T}
    assert len(shares - {(1.0,) * len(kept)}) == len(numbers)
    assert (kept >= 1).all()
    assert (kept <= counts).all()


def test_groups_that_no_probes_tell_apart_are_counted():
    counts, free = np.full(70, 2), np.ones(70, bool)  # Six probes have 63 columns of 1 and 2.
    kept = probes(counts, free)
    assert 7 <= alike(counts, free, kept).sum() < 20


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=12), st.integers(0, 1000))
def test_multiples_of_small_groups(numbers, seed):
    def rule(kept):
        return [((1, 6, int(k)), (3, 3, int(k), 4 * int(k)), (7,)) for k in kept]

    wanted = np.random.default_rng(seed).integers(1, np.array(numbers) + 1)
    assert mapped(rule, numbers)(wanted) == rule(wanted)
