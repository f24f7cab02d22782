"""One protocol for all that kprune puts into a model to train it: put in, told of, taken off.

A mechanism keeps no record of the models that it is in: what it has put into a model can be told
from the model itself, also after a `fit` that was cut short. `strip_pruning`, `find_pruning` and
the reports ask those that are registered.
"""

import abc
from typing import Any

import keras


class Mechanism(abc.ABC):
    """Something that acts in a model while it is trained.

    Attributes:
        prunes: whether it sets zeros.
        stripped: whether `strip_pruning` takes it off.
    """

    prunes = False
    stripped = True

    @abc.abstractmethod
    def install(self, model, *args):
        """Put it into a model, with what it needs to know."""

    @abc.abstractmethod
    def describe(self, model):
        """Return what of it is in a model, a list of str; empty where there is nothing."""

    @abc.abstractmethod
    def remove(self, model):
        """Take it off. Return the model without it, most often the same one."""

    def groups(self, model):
        """Return the `Group`s of weights that it prunes or whose zeros it holds."""
        return []

    def zeros_to_come(self, model):
        """Return how many zeros `remove` will set that are in the weights at no step before."""
        return 0

    def mask_weights(self, model):  # noqa: B027
        """Write the zeros of masks into the weights, if they are not in them at every step."""


_registered: list = []


def register(mechanism):
    """Let `strip_pruning` and the reports know a `Mechanism`; return it."""
    _registered.append(mechanism)
    return mechanism


def mechanisms():
    """Return all `Mechanism`s, those that prune first."""
    return sorted(_registered, key=lambda mechanism: not mechanism.prunes)


def groups_in(model):
    """Return the `Group`s of a model or layer that any mechanism prunes or holds."""
    return [group for mechanism in _registered for group in mechanism.groups(model)]


class InstalledForFit(keras.callbacks.Callback):
    """A callback that installs a mechanism when `fit` begins, and takes it off when it ends."""

    mechanism: Mechanism

    def __init__(self) -> None:
        super().__init__()
        self._installed = False

    def install(self) -> None:
        """Install the mechanism into `self.model`."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.mechanism.remove(self.model)  # What an interrupted `fit` may have left.
        self._installed = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Not earlier: `BackupAndRestore` and the like restore the model in `on_train_begin`.
        self._install_once()

    def _install_once(self):
        if not self._installed:
            self.install()
            self._installed = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.mechanism.remove(self.model)
