"""Pruning for Keras 3: prune during `fit`, strip, export, measure.

The main line is here. What goes further is in `kprune.pruning`, `kprune.training`,
`kprune.structured`, `kprune.oneshot`, `kprune.targets`, `kprune.export`, `kprune.measure`,
`kprune.compression` and `kprune.search`, each of which lists its names. TFMOT's names are in
`kprune.tfmot`, and here as well.
"""

import importlib

from kprune._system.deprecated import renamed as _renamed
from kprune.compression import compress
from kprune.export import export_onnx, export_tflite, to_c_array
from kprune.measure import benchmark, flops, sparsity
from kprune.oneshot import prune_once, sensitivity_scan
from kprune.pruning import (
    NM,
    Adaptive,
    Block,
    ConstantSparsity,
    ErdosRenyiKernel,
    Global,
    L2Norm,
    Magnitude,
    PolynomialDecay,
    Random,
    Taylor,
    Uniform,
    Unstructured,
)
from kprune.pruning import PruningSchedule as PruningSchedule
from kprune.search import optimize
from kprune.structured import Channels, channel_groups, prune_channels, shrink
from kprune.targets import PruneForLatencyOnXNNPack as PruneForLatencyOnXNNPack
from kprune.targets import check, for_target, prepare
from kprune.training import CentroidInitialization as CentroidInitialization
from kprune.training import (
    HoldZeros,
    Pruning,
    PruningOptimizer,
    QuantizationAware,
    WeightClustering,
    after_pruning,
    strip_pruning,
)
from kprune.training import PrunableLayer as PrunableLayer
from kprune.training import PruneLowMagnitude as PruneLowMagnitude
from kprune.training import PruningPolicy as PruningPolicy
from kprune.training import PruningSummaries as PruningSummaries
from kprune.training import UpdatePruningStep as UpdatePruningStep
from kprune.training import cluster_scope as cluster_scope
from kprune.training import cluster_weights as cluster_weights
from kprune.training import prune_low_magnitude as prune_low_magnitude
from kprune.training import prune_scope as prune_scope
from kprune.training import strip_clustering as strip_clustering

__version__ = "0.1.0"

__all__ = [
    "NM",
    "Adaptive",
    "Block",
    "Channels",
    "ConstantSparsity",
    "ErdosRenyiKernel",
    "Global",
    "HoldZeros",
    "L2Norm",
    "Magnitude",
    "PolynomialDecay",
    "Pruning",
    "PruningOptimizer",
    "QuantizationAware",
    "Random",
    "Taylor",
    "Uniform",
    "Unstructured",
    "WeightClustering",
    "after_pruning",
    "benchmark",
    "channel_groups",
    "check",
    "compress",
    "export_onnx",
    "export_tflite",
    "flops",
    "for_target",
    "optimize",
    "prepare",
    "prune_channels",
    "prune_once",
    "sensitivity_scan",
    "shrink",
    "sparsity",
    "strip_pruning",
    "to_c_array",
]

_ROOMS = (
    "compression",
    "export",
    "measure",
    "oneshot",
    "pruning",
    "search",
    "structured",
    "targets",
    "tfmot",
    "training",
)

# Where the names of 0.1 are now that are no longer here; they go on working for one release. Those
# with a dot are of modules that are gone.
_MOVED = {
    "Allocation": "kprune.pruning.Allocation",
    "BatchNormScale": "kprune.structured.BatchNormScale",
    "CheckReport": "kprune.targets.CheckReport",
    "CompressReport": "kprune.compression.CompressReport",
    "Criterion": "kprune.pruning.Criterion",
    "ExportError": "kprune.export.ExportError",
    "ExportReport": "kprune.export.ExportReport",
    "Pattern": "kprune.pruning.Pattern",
    "Slimming": "kprune.structured.Slimming",
    "Target": "kprune.targets.Target",
    "WeightSharing": "kprune.WeightClustering",
    "clustering.CentroidInitialization": "kprune.CentroidInitialization",
    "clustering.ClusterWeights": "kprune.training.ClusterWeights",
    "clustering.ClusterableLayer": "kprune.training.ClusterableLayer",
    "clustering.GradientAggregation": "kprune.training.GradientAggregation",
    "clustering.cluster_scope": "kprune.cluster_scope",
    "clustering.cluster_weights": "kprune.cluster_weights",
    "clustering.strip_clustering": "kprune.strip_clustering",
    "compute_mask": "kprune.pruning.compute_mask",
    "quantization.QuantizationAware": "kprune.QuantizationAware",
    "quantization.fake_quantize": "kprune.training.fake_quantize",
    "quantization.remove_fake_quantization": "kprune.training.remove_fake_quantization",
    "recalibrate_batchnorm": "kprune.structured.recalibrate_batchnorm",
    "register_channel_rule": "kprune.structured.register_channel_rule",
    "sharing.WeightSharing": "kprune.WeightClustering",
    "sharing.share_weights": "kprune.training.cluster_once",
}
_moved = _renamed(__name__, _MOVED)


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"kprune.{name}")
    return _moved(name)


def __dir__():
    return sorted([*__all__, *_ROOMS, "__version__"])
