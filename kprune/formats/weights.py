"""Which of a file's constants are the weights of a model: recognizing them, in either format."""

import dataclasses
import functools
import itertools
import math

import numpy as np

# How alike a stored weight and a Keras weight must be (cosine) to be taken for the same. Rounding
# to 8 bits leaves it at 0.99; two weights of random normal values are alike by 0.64.
_ALIKE = 0.9
_SAMPLED = 8192
# How far rounding to 7 bits moves a weight, and some more, as a share of the largest one.
_ROUNDED = 0.02


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One kernel or other prunable weight, as the file stores it.

    Attributes:
        name: path of the Keras weight it was made from.
        shape: its shape in the file, where axes stand in another order than in Keras.
        dtype: what it is stored as.
        sparsity: share of zeros (integers: of values at the zero point), as a fraction.
        encoding: `"dense"`, `"sparse"`, or a lookup table such as `"4-bit table"`.
        values: of a `.tflite` weight in 8 or 4 bits or a lookup table, how many different codes
            other than zero it has.
        entropy: of such a weight, in bits for each entry: what the best code that looks at one
            entry at a time would take.
    """

    name: str
    shape: tuple
    dtype: str
    sparsity: float
    encoding: str = "dense"
    values: int | None = None
    entropy: float | None = None


@dataclasses.dataclass
class Constant:
    """A constant of a file, as real values: zero is exactly 0.0.

    `codes` are those of a `.tflite` constant in 8 or 4 bits, less its zero point; of one in a
    lookup table, numbers of its values, 0 for zero.
    """

    values: np.ndarray
    dtype: str
    encoding: str = "dense"
    name: str = ""
    codes: np.ndarray | None = None


def stored_weights(constants, kernels, others=()):
    """Find the weights of a model among a file's constants.

    Args:
        constants: from `tflite_constants` or `onnx_constants`.
        kernels: list of (name, array): the weights to look for.
        others: list of (name, array): the model's other variables, which a constant may be.

    Returns:
        A list of `StoredWeight`s in the order of `kernels`. A weight may be stored twice.
    """
    order = {name: index for index, (name, _) in enumerate(kernels)}
    find = _Finder([*kernels, *others])
    result = []
    for constant in constants:
        values = constant.values
        name = find(values)
        if name in order:
            result.append(
                StoredWeight(
                    name=name,
                    shape=tuple(int(size) for size in values.shape),
                    dtype=constant.dtype,
                    sparsity=1 - np.count_nonzero(values) / values.size,
                    encoding=constant.encoding,
                    **_alphabet(constant.codes),
                )
            )
    return sorted(result, key=lambda weight: order[weight.name])


def _alphabet(codes):
    """Count the different codes of a weight in 8 bits, and their entropy."""
    if codes is None:
        return {}
    found, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0
    return {"values": int(np.count_nonzero(found)), "entropy": entropy}


class _Finder:
    """Finds the variable that a constant was made from.

    Converters rename weights, reorder their axes, round them, and fold a BatchNormalization into
    them, which scales each channel. What they leave alike, up to the scales of channels, is the
    magnitudes; a sample of those is compared.

    Args:
        variables: list of (name, array).
    """

    def __init__(self, variables):
        self._by_size = {}
        for name, array in variables:
            shapes = self._by_size.setdefault(array.size, {})
            shapes.setdefault(array.shape, []).append((name, array))
        self._rows = {}  # (shape, axis) -> a row for each variable of that shape

    def __call__(self, values):
        """Return the variable's name, or None."""
        best, best_likeness = None, _ALIKE
        for shape, variables in self._by_size.get(values.size, {}).items():
            for axis, axes in itertools.product(_scaled_axes(shape), axis_orders(len(shape))):
                stored = values.reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
                likeness = self._rows_for(shape, axis) @ _sample(stored, axis)
                if likeness.max() > best_likeness:
                    best, best_likeness = variables[likeness.argmax()][0], likeness.max()
                if best_likeness > 0.999:
                    return best
        return best or self._reordered(values)

    def _rows_for(self, shape, axis):
        if (shape, axis) not in self._rows:
            variables = self._by_size[math.prod(shape)][shape]
            self._rows[shape, axis] = np.stack([_sample(array, axis) for _, array in variables])
        return self._rows[shape, axis]

    def _reordered(self, values):
        """Recognize recurrent kernels in ONNX files, whose gates stand in another order."""
        ordered = np.sort(values, axis=None)
        largest = max(-ordered[0], ordered[-1])
        distances = {
            name: np.abs(np.sort(array, axis=None) - ordered).max()
            for variables in self._by_size.get(values.size, {}).values()
            for name, array in variables
        }
        best = min(distances, key=distances.get, default=None)
        return best if best and distances[best] < _ROUNDED * largest else None


def _scaled_axes(shape):
    """Axes of a Keras weight along which its channels may have been scaled; None for none."""
    axes = [] if len(shape) == 1 else [-1, -2]
    return [None] + [axis for axis in axes if shape[axis] < math.prod(shape)]


@functools.lru_cache(maxsize=1024)
def _positions(shape):
    size = math.prod(shape)
    return np.unravel_index(np.unique(np.linspace(0, size - 1, _SAMPLED).astype(int)), shape)


def _sample(array, axis):
    """Sample magnitudes, relative to their channel's along `axis`, as a vector of length 1."""
    positions = _positions(array.shape)
    sampled = np.abs(array[positions], dtype="float32")
    if axis is not None:
        others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        scales = np.abs(array).mean(others, dtype="float32")
        sampled /= np.where(scales > 0, scales, 1)[positions[axis]]
    return sampled / (np.linalg.norm(sampled) or 1)


def axis_orders(rank):
    """Orders of a Keras weight's axes that converters choose."""
    if rank < 4:
        return list(itertools.permutations(range(rank)))
    space = tuple(range(rank - 2))
    a, b = rank - 2, rank - 1
    return [(*space, a, b), (b, *space, a), (b, a, *space), (a, *space, b), (a, b, *space)]
