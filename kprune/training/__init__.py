"""What acts during `fit`, and what it leaves on the model."""

from kprune.training.after import after_pruning
from kprune.training.clustering.callback import (
    WeightClustering,
    cluster_once,
    remove_clustering,
)
from kprune.training.clustering.centroids import CentroidInitialization
from kprune.training.optimizer import PruningOptimizer
from kprune.training.pruning import HoldZeros, Pruning
from kprune.training.quantization_aware import (
    QuantizationAware,
    fake_quantize,
    remove_fake_quantization,
)
from kprune.training.strip import strip_pruning
from kprune.training.summaries import PruningSummaries
from kprune.training.wrappers.cluster_weights import (
    cluster_scope,
    cluster_weights,
    strip_clustering,
)
from kprune.training.wrappers.clustered import ClusterableLayer, ClusterWeights, GradientAggregation
from kprune.training.wrappers.prune_low_magnitude import (
    PruningPolicy,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_scope,
)
from kprune.training.wrappers.pruned import PrunableLayer, PruneLowMagnitude

__all__ = [
    "CentroidInitialization",
    "ClusterWeights",
    "ClusterableLayer",
    "GradientAggregation",
    "HoldZeros",
    "PrunableLayer",
    "PruneLowMagnitude",
    "Pruning",
    "PruningOptimizer",
    "PruningPolicy",
    "PruningSummaries",
    "QuantizationAware",
    "UpdatePruningStep",
    "WeightClustering",
    "after_pruning",
    "cluster_once",
    "cluster_scope",
    "cluster_weights",
    "fake_quantize",
    "prune_low_magnitude",
    "prune_scope",
    "remove_clustering",
    "remove_fake_quantization",
    "strip_clustering",
    "strip_pruning",
]
