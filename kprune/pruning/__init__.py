"""What to prune, how much and when: schedules, criteria, patterns, allocations, masks."""

from kprune.pruning.allocation import Allocation, ErdosRenyiKernel, Global, Uniform
from kprune.pruning.criteria import Criterion, L2Norm, Magnitude, Random, Taylor
from kprune.pruning.masks import compute_mask
from kprune.pruning.patterns import NM, Block, Pattern, Unstructured
from kprune.pruning.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = [
    "NM",
    "Allocation",
    "Block",
    "ConstantSparsity",
    "Criterion",
    "ErdosRenyiKernel",
    "Global",
    "L2Norm",
    "Magnitude",
    "Pattern",
    "PolynomialDecay",
    "PruningSchedule",
    "Random",
    "Taylor",
    "Uniform",
    "Unstructured",
    "compute_mask",
]
