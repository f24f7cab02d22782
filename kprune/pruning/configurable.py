"""What schedules, criteria, patterns and allocations have in common."""

from typing import Any, Self


class Configurable:
    """An object that is told by its constructor's arguments: printed and saved by them."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as a serializable dict."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make an object from what `get_config` returned."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
