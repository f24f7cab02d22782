"""Files that ran in their real runtime before you got them: TFLite and ONNX."""

from kprune._system.errors import ExportError, VerificationError
from kprune.export.c_array import to_c_array
from kprune.export.onnx import export_onnx
from kprune.export.report import ExportReport
from kprune.export.tflite import export_tflite
from kprune.runtimes.vela_tables import VelaEstimate, VelaLayer
from kprune.targets.outlook import NotFasterWarning

__all__ = [
    "ExportError",
    "ExportReport",
    "NotFasterWarning",
    "VelaEstimate",
    "VelaLayer",
    "VerificationError",
    "export_onnx",
    "export_tflite",
    "to_c_array",
]
