"""One operator of a file, which can be put into a file of its own with tensors of other sizes."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable

import numpy as np

Shapes = tuple[tuple[int, ...], ...]
_SHORT = 16


@dataclasses.dataclass(frozen=True, eq=False)
class SingleOperator:
    """An operator of a file.

    Attributes:
        name: of its kind, such as `"CONV_2D"`.
        kind: str, all that its time depends on besides its shapes: options, dtypes, which of its
            tensors are constants.
        shapes: of its tensors in the file that it is from; and after those, for each short
            constant of integers, its values, which may say a shape.
        file: function from such shapes to the bytes of a file with this operator alone, whose
            constants that are of other shapes than here are normal noise.
        work: function from such shapes to about how much there is to compute, a float.
    """

    name: str
    kind: str
    shapes: Shapes
    file: Callable
    work: Callable

    def key(self, shapes):
        """Return a short name of the operator at these shapes, the same in every process."""
        text = json.dumps([self.kind, shapes])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def noise(shape, dtype):
    """Return what fills a constant of a new shape: seeded normal noise; zeros for integers."""
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def says_sizes(dtype, shape):
    """Whether a constant may say sizes or places, as what a tensor is reshaped to does."""
    return np.dtype(dtype).kind == "i" and len(shape) < 2 and math.prod(shape) <= _SHORT


def elements(shapes):
    """Return how many numbers tensors of these shapes hold."""
    return float(sum(math.prod(shape) for shape in shapes))


def order_from_outputs(reads, makes, outputs):
    """Return the numbers of operators in an order that only the graph decides.

    Which of two that do not depend on each other a file has first is a converter's whim.

    Args:
        reads: for each operator, the tensors that it reads.
        makes: for each operator, the tensors that it makes.
        outputs: the graph's.
    """
    maker = {tensor: i for i, made in enumerate(makes) for tensor in made}
    found: dict[int, None] = {}
    waiting = [(maker[tensor], False) for tensor in reversed(outputs) if tensor in maker]
    while waiting:
        i, is_done = waiting.pop()
        if is_done:
            found.setdefault(i)
        elif i not in found:
            waiting.append((i, True))
            waiting += [(maker[t], False) for t in reversed(list(reads[i])) if t in maker]
    return [*found, *(i for i in range(len(reads)) if i not in found)]
