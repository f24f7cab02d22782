"""A warning when a training begins that undoes what an earlier one has done to some weights.

A new `compile`, or `strip_pruning` and a `compile`, leave nothing of kprune that acts in `fit`, and
nothing of Keras asks kprune. What stays with the variables is their `constraint`, which any
optimizer of Keras calls after an update: here one that changes nothing and speaks up once.
"""

import contextlib
import contextvars
import warnings

import keras

ZEROS, CLUSTERS = "zeros", "clusters"
_held: contextvars.ContextVar[frozenset] = contextvars.ContextVar(
    "kprune_held", default=frozenset()
)


@contextlib.contextmanager
def held(*kinds):
    """A scope in which zeros, or clusters, are held by other means, so that none is at risk.

    Args:
        *kinds: `ZEROS`, `CLUSTERS`.
    """
    token = _held.set(_held.get() | set(kinds))
    try:
        yield
    finally:
        _held.reset(token)


class Watch(keras.constraints.Constraint):
    """Leaves a weight to the constraint that was there before, and warns once for all of a kind."""

    def __init__(self, previous, kind, message, said):
        self.previous, self.kind = previous, kind
        self._message, self._said = message, said

    def __call__(self, w):
        if not self._said and self.kind not in _held.get():
            self._said.append(True)
            warnings.warn(self._message, stacklevel=2)
        return w if self.previous is None else self.previous(w)


def watch(variables, kind, message):
    """Warn, once, when one of the variables is trained outside of `held(kind)`."""
    said = []
    for variable in variables:
        unwatch(variable, kind)
        variable.constraint = Watch(variable.constraint, kind, message, said)


def is_watched(variable, kind):
    """Whether there is a warning about a kind on a variable."""
    constraint = getattr(variable, "constraint", None)
    while isinstance(constraint, Watch):
        if constraint.kind == kind:
            return True
        constraint = constraint.previous
    return False


def unwatch(variable, kind):
    """Take the warning about a kind off a variable."""

    def without(constraint):
        if not isinstance(constraint, Watch):
            return constraint
        constraint.previous = without(constraint.previous)
        return constraint.previous if constraint.kind == kind else constraint

    variable.constraint = without(variable.constraint)


def watch_zeros(variables):
    """Warn when a sparse weight is trained without masks.

    Args:
        variables: list of `keras.Variable`s, those of the weights.
    """
    names = [variable.path for variable in variables if len(variable.shape) > 1]
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    watch(
        variables,
        ZEROS,
        f"This training lets the zeros of {named} grow back: `compile` or `strip_pruning` has "
        "taken the masks off. Add kprune.HoldZeros() to the callbacks of `fit`, or prune again "
        "with kprune.Pruning.",
    )
