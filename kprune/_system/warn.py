"""Warnings that name the line of the user, however deep in kprune they are given."""

import inspect
import warnings
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def warn_user(message):
    """Warn, at the first line outside of kprune among the callers.

    Args:
        message: str, of a `UserWarning`.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and Path(frame.f_code.co_filename).is_relative_to(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
