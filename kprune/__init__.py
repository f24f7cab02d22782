"""Pruning for Keras 3: prune during `fit`, strip, export, measure."""

from kprune.compression import CompressReport, compress
from kprune.export import (
    CheckReport,
    ExportError,
    ExportReport,
    PruneForLatencyOnXNNPack,
    Target,
    check,
    export_onnx,
    export_tflite,
    for_target,
    prepare,
)
from kprune.graphs import flops
from kprune.measure import benchmark, sparsity
from kprune.pruning.allocation import Allocation, ErdosRenyiKernel, Global, Uniform
from kprune.pruning.criteria import Criterion, L2Norm, Magnitude, Random, Taylor
from kprune.pruning.masks import compute_mask
from kprune.pruning.patterns import NM, Block, Pattern, Unstructured
from kprune.pruning.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule
from kprune.structured import (
    BatchNormScale,
    Channels,
    Slimming,
    channel_groups,
    prune_channels,
    recalibrate_batchnorm,
    register_channel_rule,
    shrink,
)
from kprune.training.after import after_pruning
from kprune.training.clustering.callback import WeightSharing
from kprune.training.clustering.centroids import CentroidInitialization
from kprune.training.optimizer import PruningOptimizer
from kprune.training.pruning import HoldZeros, Pruning
from kprune.training.quantization_aware import QuantizationAware
from kprune.training.strip import strip_pruning
from kprune.training.summaries import PruningSummaries
from kprune.training.wrappers.cluster_weights import (
    cluster_scope,
    cluster_weights,
    strip_clustering,
)
from kprune.training.wrappers.prune_low_magnitude import (
    PruningPolicy,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_scope,
)
from kprune.training.wrappers.pruned import PrunableLayer, PruneLowMagnitude

__version__ = "0.1.0"

__all__ = [
    "NM",
    "Allocation",
    "BatchNormScale",
    "Block",
    "CentroidInitialization",
    "Channels",
    "CheckReport",
    "CompressReport",
    "ConstantSparsity",
    "Criterion",
    "ErdosRenyiKernel",
    "ExportError",
    "ExportReport",
    "Global",
    "HoldZeros",
    "L2Norm",
    "Magnitude",
    "Pattern",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruneLowMagnitude",
    "Pruning",
    "PruningOptimizer",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "QuantizationAware",
    "Random",
    "Slimming",
    "Target",
    "Taylor",
    "Uniform",
    "Unstructured",
    "UpdatePruningStep",
    "WeightSharing",
    "after_pruning",
    "benchmark",
    "channel_groups",
    "check",
    "cluster_scope",
    "cluster_weights",
    "compress",
    "compute_mask",
    "export_onnx",
    "export_tflite",
    "flops",
    "for_target",
    "prepare",
    "prune_channels",
    "prune_low_magnitude",
    "prune_scope",
    "recalibrate_batchnorm",
    "register_channel_rule",
    "shrink",
    "sparsity",
    "strip_clustering",
    "strip_pruning",
]
