"""Pruning after training, at once, from calibration data; and what each layer bears."""

from kprune.oneshot.prune_once import prune_once
from kprune.oneshot.report import OneShotReport, WeightResult
from kprune.oneshot.sensitivity import sensitivity_scan
from kprune.oneshot.sensitivity_report import SensitivityReport

__all__ = ["OneShotReport", "SensitivityReport", "WeightResult", "prune_once", "sensitivity_scan"]
