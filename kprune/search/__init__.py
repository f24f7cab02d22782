"""Budgets that are measured: latency."""

from kprune.search.latency import LatencyModel

__all__ = ["LatencyModel"]
