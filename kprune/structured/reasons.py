"""Why something cannot be done, in one line."""

from kprune._system.errors import first_line


class OutOfReach(ValueError):
    """A budget that channels alone cannot meet; says what must stay."""


class Unsafe(Exception):
    """An operation through which channels cannot be followed; says why."""

    @classmethod
    def because(cls, what, error):
        """What could not be done, with the line of the exception that says why."""
        return cls(f"{what}: {first_line(error)}")
