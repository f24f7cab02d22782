"""What kprune raises when it cannot keep its promise, and the line of an error that says why."""

import re

_KERAS_PREFACE = "Exception encountered when calling"
_COLORS = re.compile(r"\x1b\[\d*m")


class ExportError(RuntimeError):
    """A model could not be turned into a file that runs; nothing was left behind."""


class VerificationError(ExportError):
    """The file runs, but its outputs are further from the Keras model's than the tolerance."""


def first_line(error):
    """Return the line of an exception's message that says what was wrong."""
    lines = [_COLORS.sub("", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_KERAS_PREFACE)]
    return said[0][:300] if said else type(error).__name__
