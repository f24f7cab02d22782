import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune.structured.labels import FIXED, Labels


def test_union_ties_pairwise():
    labels = Labels()
    a, b, c = labels.new(3), labels.new(3), labels.new(3)
    labels.union(a, b)
    labels.union(c, b[::-1])
    np.testing.assert_array_equal(labels.find(b), labels.find(a))
    np.testing.assert_array_equal(labels.find(c), labels.find(a)[::-1])
    assert len(np.unique(labels.find(np.concatenate([a, b, c])))) == 3


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_sets_are_the_components_of_the_graph(pairs):
    labels = Labels()
    labels.new(20)
    component = list(range(20))
    for a, b in pairs:
        labels.union([a], [b])
        old, new = component[a], component[b]
        component = [new if c == old else c for c in component]
    found = labels.find(np.arange(20))
    for a in range(20):
        for b in range(20):
            assert (found[a] == found[b]) == (component[a] == component[b])


def test_what_meets_fixed_is_frozen_and_so_is_its_set():
    labels = Labels()
    a, b = labels.new(3), labels.new(3)
    labels.union(a, [FIXED, 4, FIXED], "beside what stays")
    labels.union(a[2:], b[:1])
    frozen = labels.frozen()
    assert frozen == {0: ["beside what stays"], int(labels.find(b)[0]): ["beside what stays"]}
    assert labels.find(np.array([FIXED]))[0] == FIXED


def test_reasons_are_kept_once_each():
    labels = Labels()
    a = labels.new(2)
    for reason in ("one", "two", "one"):
        labels.freeze(a[:1], reason)
    labels.mark_inexact(a[1:], "roughly")
    assert labels.frozen() == {0: ["one", "two"]}
    assert labels.inexact() == {1: ["roughly"]}


def test_tied_rows_share_their_columns():
    labels = Labels()
    first = labels.tie_rows(labels.new(6).reshape(3, 2))
    found = labels.find(np.arange(6)).tolist()
    assert found == [0, 1] * 3
    np.testing.assert_array_equal(first, [0, 1])


@pytest.mark.parametrize("counted", [True, False])
def test_what_need_not_be_rounded(counted):
    labels = Labels()
    labels.new(1)
    heads = labels.new(2, counted)
    assert labels.uncounted() == (set() if counted else set(heads.tolist()))
