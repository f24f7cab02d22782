"""Channels go by what the layers that take them in lose, after the others made up for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune.oneshot.elimination import Consumer, eliminate
from kprune.oneshot.reconstruct import Problem


def _problem(seed, channels=6, inputs=2, outputs=4, n=200, alike=()):
    """A `Problem` and the channel of each of its inputs, in no order."""
    random = np.random.default_rng(seed)
    index = random.permutation(np.repeat(np.arange(channels), inputs))
    signal = random.normal(size=(n, inputs, channels))
    if not alike:
        signal = signal @ random.normal(size=(channels, channels))
    for one, other in alike:
        signal[:, :, other] = signal[:, :, one]
    rows, seen = np.empty((n, len(index))), np.zeros(channels, int)
    for place, channel in enumerate(index):
        rows[:, place] = signal[:, seen[channel], channel]
        seen[channel] += 1
    rows = np.concatenate([rows, np.ones((n, 1))], axis=1)  # As for a bias.
    matrix = random.normal(size=(1, len(index) + 1, outputs))
    matrix = np.abs(matrix) if alike else matrix  # What is alike does not cancel out.
    problem = Problem(matrix, (rows.T @ rows)[None], fixed=1)
    return problem, np.append(index, -1)[None]


def _error(problem, index, kept):
    """The error of the best weights of some channels, by least squares."""
    moment, matrix = problem.moment[0].astype("float64"), problem.matrix[0].astype("float64")
    rows = np.where(index >= 0, kept[index], True)[0]
    best = np.zeros_like(matrix)
    best[rows] = np.linalg.solve(moment[np.ix_(rows, rows)], (moment @ matrix)[rows])
    change = best - matrix
    return float((change * (moment @ change)).sum()) / problem.energy


@given(seed=st.integers(0, 10**6), inputs=st.integers(1, 3))
def test_losses_are_those_of_the_best_weights(seed, inputs):
    problem, index = _problem(seed, inputs=inputs)
    consumer = Consumer(problem, index, 6)
    first = seed % 6
    for gone in ([], [first]):
        losses = consumer.losses()
        for channel in set(range(6)) - set(gone):
            kept = ~np.isin(np.arange(6), [*gone, channel])
            before = _error(problem, index, ~np.isin(np.arange(6), gone))
            expected = _error(problem, index, kept) - before
            assert losses[channel] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        if not gone:
            consumer.remove(np.array([first]))


@given(seed=st.integers(0, 10**6), count=st.integers(0, 5))
def test_as_many_go_as_are_asked_for(seed, count):
    problem, index = _problem(seed)
    kept = eliminate([Consumer(problem, index, 6)], 6, count)
    assert np.count_nonzero(~kept) == count


@given(seed=st.integers(0, 10**6))
def test_of_two_that_are_alike_one_stays(seed):
    problem, index = _problem(seed, alike=[(1, 4)])
    kept = eliminate([Consumer(problem, index, 6)], 6, 1)
    assert kept.sum() == 5
    assert not kept[[1, 4]].all()
    assert _error(problem, index, kept) < 0.05
    kept = eliminate([Consumer(problem, index, 6)], 6, 2)
    assert kept[[1, 4]].any()


def test_every_layer_that_takes_them_has_a_say():
    """What one of them needs most, another needs not at all."""
    one, index = _problem(0, inputs=1)
    other, places = _problem(1, inputs=1)
    matrix = other.matrix.copy()
    alone = Consumer(one, index, 6).losses()
    worst = int(np.argmin(alone))
    matrix[:, places[0] == worst] *= 100
    both = [Consumer(one, index, 6), Consumer(Problem(matrix, other.moment), places, 6)]
    assert not eliminate([Consumer(one, index, 6)], 6, 1)[worst]
    assert eliminate(both, 6, 1)[worst]


def test_without_updates_what_stays_makes_up_for_nothing():
    problem, index = _problem(0, alike=[(1, 4)])
    plain, updated = (Consumer(problem, index, 6, updates).losses() for updates in (False, True))
    squares = (problem.matrix[0] ** 2 * np.diagonal(problem.moment[0])[:, None]).sum(1)
    expected = [squares[index[0] == channel].sum() / problem.energy for channel in range(6)]
    np.testing.assert_allclose(plain, expected, 1e-4)
    assert updated[1] < 0.2 * plain[1]


def test_many_channels_go_some_at_a_time():
    problem, index = _problem(0, channels=300, inputs=1, n=2000)
    kept = eliminate([Consumer(problem, index, 300)], 300, 290)
    assert kept.sum() == 10
