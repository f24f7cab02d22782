"""What a runtime accelerates; checking, advising, preparing and rewriting by it."""

from kprune.targets.check import CheckReport, LayerVerdict, check
from kprune.targets.choose import PruneForLatencyOnXNNPack, TargetLayers, for_target
from kprune.targets.outlook import Outlook
from kprune.targets.prepare import PrepareReport, prepare
from kprune.targets.target import TARGETS, Target

__all__ = [
    "TARGETS",
    "CheckReport",
    "LayerVerdict",
    "Outlook",
    "PrepareReport",
    "PruneForLatencyOnXNNPack",
    "Target",
    "TargetLayers",
    "check",
    "for_target",
    "prepare",
]
