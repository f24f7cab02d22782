"""A warning when a training begins that lets zeros grow back.

A new `compile`, or `strip_pruning` and a `compile`, leave nothing of kprune that acts in `fit`, and
nothing of Keras asks kprune. What stays with the variables is their `constraint`, which any
optimizer of Keras calls after an update: here one that changes nothing and speaks up once.
"""

import contextlib
import contextvars
import warnings

import keras

from kprune.training.requests import requests

_held = contextvars.ContextVar("kprune_zeros_held", default=False)


@contextlib.contextmanager
def held():
    """A scope in which zeros are held by other means, so that none is at risk."""
    token = _held.set(True)
    try:
        yield
    finally:
        _held.reset(token)


class _Once:
    def __init__(self, names):
        self.names, self.said = names, False

    def warn(self):
        if self.said or _held.get():
            return
        self.said = True
        warnings.warn(
            f"This training lets the zeros of {self.names} grow back: `compile` or "
            "`strip_pruning` has taken the masks off. Add kprune.HoldZeros() to the callbacks of "
            "`fit`, or prune again with kprune.Pruning.",
            stacklevel=2,
        )


class _AtRisk(keras.constraints.Constraint):
    """Leaves a weight to the constraint that was there before, and warns once a model."""

    def __init__(self, previous, once):
        self.previous, self.once = previous, once

    def __call__(self, w):
        self.once.warn()
        return w if self.previous is None else self.previous(w)


def watch(model):
    """Warn when a weight of a model that was asked to be sparse is trained without masks.

    Args:
        model: a model, a layer, or a list of layers.
    """
    found = [weight for request in requests(model) for weight in request.group.weights]
    names = [weight.name for weight in found if weight.is_kernel]
    once = _Once(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    for weight in found:
        unwatch(weight.variable)
        weight.variable.constraint = _AtRisk(weight.variable.constraint, once)


def unwatch(variable):
    """Take the warning off a variable."""
    if isinstance(variable.constraint, _AtRisk):
        variable.constraint = variable.constraint.previous
