"""tfmot.sparsity.keras: pruning."""

from kprune.pruning import ConstantSparsity, PolynomialDecay, PruningSchedule
from kprune.targets import PruneForLatencyOnXNNPack
from kprune.training import (
    PrunableLayer,
    PruningPolicy,
    PruningSummaries,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
