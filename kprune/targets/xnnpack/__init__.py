"""XNNPACK's sparse inference, foreseen: see `clusters`."""

from kprune.targets.xnnpack.clusters import FAILS, WRONG, Cluster, clusters
from kprune.targets.xnnpack.operators import Blame

__all__ = ["FAILS", "WRONG", "Blame", "Cluster", "clusters"]
