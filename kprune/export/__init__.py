"""Files that ran in their real runtime before you got them: TFLite and ONNX."""

from kprune._system.errors import ExportError, VerificationError
from kprune.export.onnx import export_onnx
from kprune.export.report import ExportReport
from kprune.export.tflite import export_tflite
from kprune.targets.check import CheckReport, check
from kprune.targets.choose import PruneForLatencyOnXNNPack, for_target
from kprune.targets.prepare import prepare
from kprune.targets.target import TARGETS, Target

__all__ = [
    "TARGETS",
    "CheckReport",
    "ExportError",
    "ExportReport",
    "PruneForLatencyOnXNNPack",
    "Target",
    "VerificationError",
    "check",
    "export_onnx",
    "export_tflite",
    "for_target",
    "prepare",
]
