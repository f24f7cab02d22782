"""Budgets that are measured: latency."""

from kprune.search.latency import LatencyModel, write_operators

__all__ = ["LatencyModel", "write_operators"]
