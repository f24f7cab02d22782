"""The best values for what stays of a kernel, given the second moment of what it multiplies.

Minimizes `sum over rows x of |x @ new - x @ old|**2` over kernels with so many zeros. Which weights
go and what the others become is found together, by the alternating direction method of multipliers
with a rising sparsity (Boža, "Fast and effective weight update for pruned large language models",
2024), which does what OBS (Hassibi & Stork, 1993) and SparseGPT (Frantar & Alistarh, 2023) do, for
all outputs at once; then the kept weights are the least-squares solution, by conjugate gradients.
"""

import keras
import numpy as np

DAMPING = 0.01  # Of the mean second moment, added to each; what is singular is so no longer.
_SINGULAR = 1e-5  # Of an input's second moment, what others leave of it.
_PENALTY = 0.3
_RISING, _STEPS = 16, 20
_REFIT_STEPS = 60
_CONVERGED = 1e-10


def problem_of(weight, linear, moment):
    """Return `(matrix, bias, problem)` of a `Weight` on data.

    Args:
        weight: the `Weight`.
        linear: its `Linear`.
        moment: its `Moment`.

    Returns:
        Its matrices, float array [groups, d, outputs], with the bias as the last of the d; the
        bias's variable, None without one; and the `Problem`.
    """
    value = keras.ops.convert_to_numpy(weight.variable).astype("float32")
    matrix = moment.blocks(linear.matrix(value))
    bias = linear.bias if moment.has_bias else None
    if bias is not None:
        row = keras.ops.convert_to_numpy(bias).astype("float32")
        matrix = np.concatenate([matrix, row.reshape(len(matrix), 1, -1)], axis=1)
    return matrix, bias, Problem(matrix, moment.total, fixed=int(bias is not None))


class Problem:
    """Matrices to be changed, and what is known of what they multiply.

    Args:
        matrix: float array [groups, d, outputs].
        moment: float array [groups, d, d], the sum of the products of rows.
        fixed: int, how many of the last of the d are never pruned, as a bias.

    Attributes:
        singular: whether some inputs follow from others, or are always zero, so that damping
            decides what becomes of their weights.
    """

    def __init__(self, matrix, moment, fixed=0):
        d = matrix.shape[1]
        self._fixed = fixed
        mean = np.trace(moment, axis1=1, axis2=2)[:, None, None] / d
        self.is_empty = bool((mean <= 0).all())
        self.singular = _is_singular(moment)
        damped = moment + np.where(mean > 0, DAMPING * mean, 1.0) * np.eye(d)
        # Of inputs of one size, so that one penalty suits them all.
        self._norms = np.sqrt(np.diagonal(damped, axis1=1, axis2=2))[:, :, None]
        self._moment = (damped / (self._norms * self._norms.swapaxes(1, 2))).astype("float32")
        self._matrix = (matrix * self._norms).astype("float32")
        self._target = self._moment @ self._matrix

    @property
    def moment(self):
        """The second moment of inputs of one size, damped, float array [groups, d, d]."""
        return self._moment

    @property
    def matrix(self):
        """The matrices for inputs of one size, float array [groups, d, outputs]."""
        return self._matrix

    @property
    def energy(self):
        """The sum of the output's squares, a float."""
        return max(float((self._matrix * self._target).sum()), 1e-30)

    def scores(self):
        """Return |weight| x the norm of its input (Sun et al., "Wanda", 2024)."""
        return np.abs(self._matrix)

    def solve(self, select):
        """Return the new matrices.

        Args:
            select: function from scores [groups, d, outputs] and a share of what is to be pruned
                to the mask, bool of the same shape.
        """
        inverse = np.linalg.inv(self._moment + _PENALTY * np.eye(len(self._moment[0]), dtype="f"))
        new, dual = self._matrix, np.zeros_like(self._matrix)
        for step in range(1, _STEPS + 1):
            share = 1 - (1 - min(step / _RISING, 1)) ** 3
            wanted = new + dual
            kept = np.where(self._select(select, wanted, share), wanted, 0)
            dual = wanted - kept
            new = inverse @ (self._target + _PENALTY * (kept - dual))
        found = self.refit(self._select(select, new + dual, 1.0), start=kept)
        other = self.refit(self._select(select, self._matrix, 1.0))
        return min(found, other, key=self.error)

    def refit(self, mask, start=None):
        """Return the matrices of a mask that are the best, by least squares."""
        value = np.where(mask, self._matrix if start is None else start, 0)
        left = np.where(mask, self._target - self._moment @ value, 0)
        direction, size = left, (left * left).sum(1, keepdims=True)
        goal = _CONVERGED * float((self._target**2).sum())
        for _ in range(_REFIT_STEPS):
            if size.sum() <= goal:
                break
            product = np.where(mask, self._moment @ direction, 0)
            curve = (direction * product).sum(1, keepdims=True)
            step = size / np.maximum(curve, 1e-30)
            value, left = value + step * direction, left - step * product
            before, size = size, (left * left).sum(1, keepdims=True)
            direction = left + size / np.maximum(before, 1e-30) * direction
        return value / self._norms

    def error(self, matrix):
        """Return the share of the output's squares that other matrices change, a float."""
        change = matrix * self._norms - self._matrix
        return float((change * (self._moment @ change)).sum()) / self.energy

    def _select(self, select, values, share):
        if not self._fixed:
            return select(np.abs(values), share)
        mask = np.ones(values.shape, bool)
        mask[:, : -self._fixed] = select(np.abs(values[:, : -self._fixed]), share)
        return mask


def _is_singular(moment):
    sizes = np.diagonal(moment, axis1=1, axis2=2)
    if (sizes <= 0).any():
        return True
    sizes = np.sqrt(sizes)[:, :, None]
    try:
        factor = np.linalg.cholesky((moment / (sizes * sizes.swapaxes(1, 2))).astype("float64"))
    except np.linalg.LinAlgError:
        return True
    return bool((np.diagonal(factor, axis1=1, axis2=2) ** 2 < _SINGULAR).any())
