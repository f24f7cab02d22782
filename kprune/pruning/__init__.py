"""What to prune, how much and when: schedules, criteria, patterns, allocations, masks."""

from kprune.pruning.accumulating import AccumulatingCriterion, Fisher, Movement, Sensitivity
from kprune.pruning.adaptive import Adaptive
from kprune.pruning.allocation import LAMP, Allocation, ErdosRenyiKernel, Global, Uniform
from kprune.pruning.criteria import Criterion, Importance, L2Norm, Magnitude, Random, Taylor
from kprune.pruning.masks import compute_mask
from kprune.pruning.patterns import NM, Block, Pattern, Unstructured
from kprune.pruning.penalties import (
    DensityPenalty,
    GrowingRegularization,
    Lasso,
    Penalty,
)
from kprune.pruning.regrowth import SET, Regrowth, RigL
from kprune.pruning.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = [
    "LAMP",
    "NM",
    "SET",
    "AccumulatingCriterion",
    "Adaptive",
    "Allocation",
    "Block",
    "ConstantSparsity",
    "Criterion",
    "DensityPenalty",
    "ErdosRenyiKernel",
    "Fisher",
    "Global",
    "GrowingRegularization",
    "Importance",
    "L2Norm",
    "Lasso",
    "Magnitude",
    "Movement",
    "Pattern",
    "Penalty",
    "PolynomialDecay",
    "PruningSchedule",
    "Random",
    "Regrowth",
    "RigL",
    "Sensitivity",
    "Taylor",
    "Uniform",
    "Unstructured",
    "compute_mask",
]
