"""What acts during `fit`, and what it leaves on the model."""

from kprune.training.after_pruning import after_pruning
from kprune.training.clustering.centroids import CentroidInitialization
from kprune.training.clustering.installing import remove_clustering
from kprune.training.clustering.weight_clustering import (
    WeightClustering,
    cluster_once,
)
from kprune.training.distill import distill
from kprune.training.fake_quantization import fake_quantize, remove_fake_quantization
from kprune.training.hold_zeros import HoldZeros
from kprune.training.pruning import Pruning
from kprune.training.pruning_optimizer import PruningOptimizer
from kprune.training.quantization_aware import QuantizationAware
from kprune.training.rewind import rewind
from kprune.training.strip import strip_pruning
from kprune.training.summaries import PruningSummaries
from kprune.training.variational.kl_warm_up import KLWarmUp
from kprune.training.variational.sparse_variational_dropout import sparse_variational_dropout
from kprune.training.variational.wrapper import SparseVariationalDropout
from kprune.training.wrappers.cluster_weights import (
    cluster_scope,
    cluster_weights,
    strip_clustering,
)
from kprune.training.wrappers.clustering_wrapper import (
    ClusterableLayer,
    ClusterWeights,
    GradientAggregation,
)
from kprune.training.wrappers.prunable import PrunableLayer
from kprune.training.wrappers.prune_low_magnitude import (
    PruningPolicy,
    prune_low_magnitude,
    prune_scope,
)
from kprune.training.wrappers.pruning_wrapper import PruneLowMagnitude
from kprune.training.wrappers.update_pruning_step import UpdatePruningStep

__all__ = [
    "CentroidInitialization",
    "ClusterWeights",
    "ClusterableLayer",
    "GradientAggregation",
    "HoldZeros",
    "KLWarmUp",
    "PrunableLayer",
    "PruneLowMagnitude",
    "Pruning",
    "PruningOptimizer",
    "PruningPolicy",
    "PruningSummaries",
    "QuantizationAware",
    "SparseVariationalDropout",
    "UpdatePruningStep",
    "WeightClustering",
    "after_pruning",
    "cluster_once",
    "cluster_scope",
    "cluster_weights",
    "distill",
    "fake_quantize",
    "prune_low_magnitude",
    "prune_scope",
    "remove_clustering",
    "remove_fake_quantization",
    "rewind",
    "sparse_variational_dropout",
    "strip_clustering",
    "strip_pruning",
]
