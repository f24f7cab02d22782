"""Budgets: the loop that compresses, trains, judges and times; latency, measured."""

from kprune.search.frontier import OptimizeResult
from kprune.search.goal import Goal
from kprune.search.latency import LatencyModel, write_operators
from kprune.search.optimize import optimize
from kprune.search.points import Point, Step

__all__ = [
    "Goal",
    "LatencyModel",
    "OptimizeResult",
    "Point",
    "Step",
    "optimize",
    "write_operators",
]
