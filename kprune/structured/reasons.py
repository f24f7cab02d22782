"""Why something cannot be done, in one line."""

import re

_KERAS_PREFACE = "Exception encountered when calling"
_COLORS = re.compile(r"\x1b\[\d*m")


class Unsafe(Exception):
    """An operation through which channels cannot be followed; says why."""

    @classmethod
    def because(cls, what, error):
        """What could not be done, with the line of the exception that says why."""
        return cls(f"{what}: {first_line(error)}")


def first_line(error):
    """Return the line of an exception's message that says what was wrong."""
    lines = [_COLORS.sub("", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_KERAS_PREFACE)]
    return said[0][:300] if said else type(error).__name__
