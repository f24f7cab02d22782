"""Pruning for Keras 3: prune during `fit`, strip, export, measure.

The main line is here. What goes further is in `kprune.pruning`, `kprune.training`,
`kprune.structured`, `kprune.targets`, `kprune.export`, `kprune.measure` and `kprune.compression`,
each of which lists its names. TFMOT's names are in `kprune.tfmot`, and here as well.
"""

import importlib
import warnings

from kprune.compression import compress
from kprune.export import export_onnx, export_tflite
from kprune.measure import benchmark, flops, sparsity
from kprune.pruning import (
    NM,
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
from kprune.structured import Channels, channel_groups, prune_channels, shrink
from kprune.targets import PruneForLatencyOnXNNPack as PruneForLatencyOnXNNPack
from kprune.targets import check, for_target, prepare
from kprune.training import CentroidInitialization as CentroidInitialization
from kprune.training import (
    HoldZeros,
    Pruning,
    PruningOptimizer,
    QuantizationAware,
    WeightSharing,
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
    "WeightSharing",
    "after_pruning",
    "benchmark",
    "channel_groups",
    "check",
    "compress",
    "export_onnx",
    "export_tflite",
    "flops",
    "for_target",
    "prepare",
    "prune_channels",
    "shrink",
    "sparsity",
    "strip_pruning",
]

_ROOMS = (
    "compression",
    "export",
    "measure",
    "pruning",
    "structured",
    "targets",
    "tfmot",
    "training",
)

# Where the names of 0.1 are now that are no longer here; they go on working for one release.
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
    "clustering": "kprune.tfmot.clustering.keras",
    "compute_mask": "kprune.pruning.compute_mask",
    "recalibrate_batchnorm": "kprune.structured.recalibrate_batchnorm",
    "register_channel_rule": "kprune.structured.register_channel_rule",
}


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"kprune.{name}")
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path = _MOVED[name]
    warnings.warn(
        f"kprune.{name} is deprecated and will go; use {path}.", DeprecationWarning, stacklevel=2
    )
    home, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(home), attribute)


def __dir__():
    return sorted([*__all__, *_ROOMS, "__version__"])
