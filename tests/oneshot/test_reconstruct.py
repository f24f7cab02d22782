"""The kept weights are the best there are, and better ones stay than by magnitude."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kprune.oneshot.reconstruct import DAMPING, Problem


def _problem(seed, groups=1, d=12, outputs=5, n=200):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(groups, n, 4)) @ random.normal(size=(groups, 4, d))
    rows += 0.3 * random.normal(size=(groups, n, d))
    matrix = random.normal(size=(groups, d, outputs))
    return rows, matrix, Problem(matrix, rows.swapaxes(1, 2) @ rows)


def _lowest(count):
    def select(scores, share):
        mask = np.ones(scores.size, bool)
        mask[np.argsort(scores.ravel())[: round(share * count)]] = False
        return mask.reshape(scores.shape)

    return select


@given(seed=st.integers(0, 10**6), groups=st.integers(1, 3))
def test_refit_is_the_least_squares_solution(seed, groups):
    rows, matrix, problem = _problem(seed, groups)
    mask = np.random.default_rng(seed).uniform(size=matrix.shape) < 0.6
    got = problem.refit(mask)
    assert (got[~mask] == 0).all()
    for x, old, new, kept in zip(rows, matrix, got, mask):
        d = x.shape[1]
        damping = np.sqrt(DAMPING * np.square(x).sum() / d) * np.eye(d)
        x = np.concatenate([x, damping])  # Which is what damping stands for.
        for j in range(old.shape[1]):
            best, *_ = np.linalg.lstsq(x[:, kept[:, j]], x @ old[:, j], rcond=None)
            np.testing.assert_allclose(new[kept[:, j], j], best, 2e-2, 2e-3)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.3, 0.5, 0.8]))
def test_solve_is_better_than_the_controls(seed, share):
    _, matrix, problem = _problem(seed)
    count = round(share * matrix.size)
    new = problem.solve(_lowest(count))
    assert (new == 0).sum() == count
    kept = _lowest(count)(np.abs(matrix), 1.0)
    assert problem.error(new) < problem.error(matrix * kept)
    wanda = _lowest(count)(problem.scores(), 1.0)
    assert problem.error(new) <= problem.error(problem.refit(wanda)) * 1.001


def test_nothing_is_changed_where_nothing_is_pruned():
    _, matrix, problem = _problem(0)
    np.testing.assert_allclose(problem.refit(np.ones(matrix.shape, bool)), matrix, 1e-4, 1e-4)
    assert problem.error(matrix) < 1e-10


def test_inputs_that_are_always_zero():
    """A moment that is singular is damped."""
    rows, matrix, _ = _problem(0)
    rows[:, :, :4] = 0
    problem = Problem(matrix, rows.swapaxes(1, 2) @ rows)
    new = problem.solve(_lowest(20))
    assert problem.singular
    assert np.isfinite(new).all()
    assert problem.error(new) < 0.02
    assert Problem(matrix, np.zeros((1, 12, 12))).is_empty


def test_what_data_leave_open_is_known():
    rows, matrix, problem = _problem(0)
    assert not problem.singular

    def singular(rows):
        return Problem(matrix, (rows.swapaxes(1, 2) @ rows).astype("float32")).singular

    assert not singular(1e4 * rows)  # Whatever the size, and of inputs of other sizes.
    assert not singular(rows * np.geomspace(1e-3, 1e3, 12))
    assert singular(rows[:, :11])  # Fewer examples than inputs.
    rows[:, :, 5] = 3 * rows[:, :, 2] - rows[:, :, 7]
    assert singular(rows)
