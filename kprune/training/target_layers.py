"""What `Pruning(target=...)` prunes: chosen by the room of targets, which lies above this one."""

from collections.abc import Callable
from typing import Any

_registered: dict[str, Callable] = {}


def register(check, choose):
    """Let `Pruning` know targets.

    Args:
        check: function from a target or its name to the target; raises ValueError if there is none.
        choose: function from a model, a target and a sparsity to `layers` of `Pruning`.
    """
    _registered.update(check=check, choose=choose)


def check_target(target: Any) -> Any:
    """Return a target that has a use for zeros."""
    return _registered["check"](target)


def layers_for(model: Any, target: Any, sparsity: float) -> dict[Any, Any]:
    """Return `layers` of `Pruning`: what the target accelerates; all else is left dense."""
    return _registered["choose"](model, target, sparsity)
