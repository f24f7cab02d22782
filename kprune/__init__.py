"""Pruning for Keras 3: prune during `fit`, strip, export, measure."""

from kprune.allocation import Allocation, ErdosRenyiKernel, Global, Uniform
from kprune.callbacks import Pruning
from kprune.criteria import Criterion, Magnitude, Random, Taylor
from kprune.masks import compute_mask
from kprune.optimizer import PruningOptimizer
from kprune.patterns import NM, Block, Pattern, Unstructured
from kprune.prune import UpdatePruningStep, prune_low_magnitude, prune_scope
from kprune.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule
from kprune.strip import strip_pruning
from kprune.summaries import PruningSummaries
from kprune.wrappers import PrunableLayer, PruneLowMagnitude

__version__ = "0.1.0"

__all__ = [
    "NM",
    "Allocation",
    "Block",
    "ConstantSparsity",
    "Criterion",
    "ErdosRenyiKernel",
    "Global",
    "Magnitude",
    "Pattern",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneLowMagnitude",
    "Pruning",
    "PruningOptimizer",
    "PruningSchedule",
    "PruningSummaries",
    "Random",
    "Taylor",
    "Uniform",
    "Unstructured",
    "UpdatePruningStep",
    "compute_mask",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
