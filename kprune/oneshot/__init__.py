"""Pruning after training, at once, from calibration data."""

from kprune.oneshot.prune_once import prune_once
from kprune.oneshot.report import OneShotReport, WeightResult

__all__ = ["OneShotReport", "WeightResult", "prune_once"]
