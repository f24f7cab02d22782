"""What to prune, how much and when: schedules, criteria, patterns, allocations, masks."""

from kprune.pruning.allocation import LAMP, Allocation, ErdosRenyiKernel, Global, Uniform
from kprune.pruning.criteria import Criterion, Importance, L2Norm, Magnitude, Random, Taylor
from kprune.pruning.masks import compute_mask
from kprune.pruning.patterns import NM, Block, Pattern, Unstructured
from kprune.pruning.regrowth import Regrowth, RigL
from kprune.pruning.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = [
    "LAMP",
    "NM",
    "Allocation",
    "Block",
    "ConstantSparsity",
    "Criterion",
    "ErdosRenyiKernel",
    "Global",
    "Importance",
    "L2Norm",
    "Magnitude",
    "Pattern",
    "PolynomialDecay",
    "PruningSchedule",
    "Random",
    "Regrowth",
    "RigL",
    "Taylor",
    "Uniform",
    "Unstructured",
    "compute_mask",
]
