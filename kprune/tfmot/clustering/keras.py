"""tfmot.clustering.keras: weight clustering."""

import types

from kprune.tfmot._missing import not_here
from kprune.training import (
    CentroidInitialization,
    ClusterableLayer,
    cluster_scope,
    cluster_weights,
    strip_clustering,
)

__all__ = [
    "CentroidInitialization",
    "ClusterableLayer",
    "cluster_scope",
    "cluster_weights",
    "clusterable_layer",
    "experimental",
    "strip_clustering",
]

clusterable_layer = types.SimpleNamespace(ClusterableLayer=ClusterableLayer)
experimental = types.SimpleNamespace(cluster_weights=cluster_weights)

__getattr__ = not_here(
    __name__,
    {
        "ClusteringAlgorithm": "a layer's `get_clusterable_weights` says what to cluster, and each "
        "of those weights has its own centroids.",
        "ClusteringSummaries": "use keras.callbacks.TensorBoard(log_dir, histogram_freq=1), which "
        "writes the histograms of weights and centroids.",
    },
)
