"""Checkpoints in the middle of training: what files have of it, and how it goes on from them.

No file has masks in it. Weights in training are exactly zero where they are masked, in any
checkpoint, so the masks are read off the weights when training goes on (`masks_of`). And no file
knows of kprune: in the place of an optimizer that wraps another one, `.keras` and `.weights.h5`
files have the other's state, under its names (`SavedAsWrapped`), and whole models in `.h5` the
other optimizer itself (`without`).
"""

import contextlib
from typing import Any

from kprune._keras import tracking


def masks_of(group, step):
    """Return the masks of a group's weights as they are, at the step that was reached.

    Where the zeros are not what the schedule asks for by now (a dense model, a schedule that has
    begun), new masks prune to it, by magnitude, since no gradient is at hand. Before a schedule
    begins, what is zero stays zero.

    Args:
        group: a `Group`.
        step: int.
    """
    schedule = group.setting.schedule
    # The first step makes an update that falls on step 0.
    update = schedule.last_update(step) if step and group.setting.asks else None
    if update is None:
        return group.held()
    return group.restored(float(schedule(update)[1]))


class SavedAsWrapped:
    """For an optimizer that wraps another one: files have the other in its place.

    Attributes:
        wrapped_name: the attribute that is the wrapped optimizer.
        unsaved: other attributes of the wrapper that hold optimizers.
    """

    wrapped_name: str
    unsaved: tuple[str, ...] = ()

    def save_own_variables(self, store: Any) -> None:
        """Write what the wrapped optimizer would, so that files open without kprune."""
        getattr(self, self.wrapped_name).save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the wrapped optimizer's state."""
        getattr(self, self.wrapped_name).load_own_variables(store)

    def __dir__(self):
        # Keras saves the attributes that dir() lists: those of the wrapped optimizer,
        # under the wrapped optimizer's names, and not the wrapped optimizer as well.
        own = set(super().__dir__()) - {self.wrapped_name, *self.unsaved, tracking.TRACKER}
        return sorted(own | set(dir(getattr(self, self.wrapped_name))))


def without(kind):
    """Return a scope for `.h5` files: in it, `compile`'s optimizer is the one that was wrapped.

    Args:
        kind: the class of the wrappers, a `SavedAsWrapped`.

    Returns:
        A function from a model to a context manager.
    """

    @contextlib.contextmanager
    def scope(model):
        optimizer = getattr(model, "optimizer", None)
        if not isinstance(optimizer, kind):
            yield
            return
        model.optimizer = getattr(optimizer, kind.wrapped_name)
        try:
            yield
        finally:
            model.optimizer = optimizer

    return scope
