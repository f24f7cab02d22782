"""Budgets: the loop that compresses, trains, judges and times, until no more holds."""

from kprune.search.frontier import OptimizeResult
from kprune.search.goal import Goal
from kprune.search.optimize import optimize
from kprune.search.points import Point, Step

__all__ = ["Goal", "OptimizeResult", "Point", "Step", "optimize"]
