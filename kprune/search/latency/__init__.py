"""Latency as a budget: operators timed alone, whole files side by side."""

from kprune.search.latency import budget as _budget  # noqa: F401  (registers itself)
from kprune.search.latency.device import write_operators
from kprune.search.latency.model import LatencyModel

__all__ = ["LatencyModel", "write_operators"]
