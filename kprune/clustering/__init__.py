"""Weight clustering: few different values in a kernel, trained together.

`kprune.WeightSharing` is the callback; these are TFMOT's functions (`tfmot.clustering.keras`).
"""

from kprune.clustering.centroids import CentroidInitialization
from kprune.clustering.cluster import cluster_scope, cluster_weights, strip_clustering
from kprune.clustering.wrappers import ClusterableLayer, ClusterWeights, GradientAggregation

__all__ = [
    "CentroidInitialization",
    "ClusterWeights",
    "ClusterableLayer",
    "GradientAggregation",
    "cluster_scope",
    "cluster_weights",
    "strip_clustering",
]
