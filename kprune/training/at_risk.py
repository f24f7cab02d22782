"""A warning when a training begins that undoes what an earlier one has done to some weights.

A new `compile`, or `strip_pruning` and a `compile`, leave nothing of kprune that acts in `fit`, and
nothing of Keras asks kprune. What stays with the variables is their `constraint`, which any
optimizer of Keras calls after an update: here one that changes nothing and speaks up once.
"""

import contextlib
import contextvars
import warnings

import keras

from kprune.training.requests import requests

ZEROS, CLUSTERS = "zeros", "clusters"
_held = contextvars.ContextVar("kprune_held", default=frozenset())


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


def unwatch(variable, kind):
    """Take the warning about a kind off a variable."""

    def without(constraint):
        if not isinstance(constraint, Watch):
            return constraint
        constraint.previous = without(constraint.previous)
        return constraint.previous if constraint.kind == kind else constraint

    variable.constraint = without(variable.constraint)


def watch_zeros(model):
    """Warn when a weight of a model that was asked to be sparse is trained without masks.

    Args:
        model: a model, a layer, or a list of layers.
    """
    found = [weight for request in requests(model) for weight in request.group.weights]
    names = [weight.name for weight in found if weight.is_kernel]
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    watch(
        [weight.variable for weight in found],
        ZEROS,
        f"This training lets the zeros of {named} grow back: `compile` or `strip_pruning` has "
        "taken the masks off. Add kprune.HoldZeros() to the callbacks of `fit`, or prune again "
        "with kprune.Pruning.",
    )
