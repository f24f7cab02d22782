"""What a sparsity pattern is."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kprune._system.type_aliases import Axes, Shape, Tensor
from kprune.graphs.weights import INPUT_OUTPUT
from kprune.pruning.configurable import Configurable


class Pattern(Configurable):
    """Base class of the patterns; use `Unstructured`, `Block` or `NM`."""

    def units(self, scores: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        """Return the scores of the units, a float tensor of any shape."""
        raise NotImplementedError

    def sizes(self, weight: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        """Return the root of the mean square of each unit of a weight, a float32 tensor."""
        return ops.sqrt(self.units(ops.square(ops.cast(weight, "float32")), axes))

    def expand(self, unit_mask: Tensor, shape: Shape, axes: Axes = INPUT_OUTPUT) -> Tensor:
        """Return the mask of a weight of `shape` from the mask of its units."""
        raise NotImplementedError

    def count(self, shape: Shape, axes: Axes = INPUT_OUTPUT) -> tuple[int, int]:
        """Return `(n, most)`: a sparsity s prunes round(s * n) units, `most` at the most.

        One unit always stays: a kernel without any weight would cut what it feeds off from
        the inputs.
        """
        raise NotImplementedError

    def check(self, shape: Shape, axes: Axes, name: str) -> None:
        """Raise `ValueError` if a weight of this shape cannot have the pattern."""

    def groups(
        self, group: Any, model: keras.Model | None, before: Sequence[Any] = ()
    ) -> list[Any]:
        """Return the `selection.Group`s that prune a group's weights with this pattern.

        Args:
            group: a `selection.Group`.
            model: the model, or None where only the variables are known.
            before: the `selection.Group`s of the settings before this one.
        """
        return [group]

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash(type(self))


def check_pattern(pattern):
    """Return `pattern` if it is one, else raise `TypeError` with what to pass."""
    if isinstance(pattern, Pattern):
        return pattern
    raise TypeError(
        "`pattern` must be a kprune pattern: Unstructured(), Block((4, 1)), NM(2, 4). "
        f"Received: {pattern!r}"
    )
