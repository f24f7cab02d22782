"""Packages that are not always there."""

import importlib.util

import keras

PACKAGES = {
    "tflite": ["tensorflow", "ai_edge_litert"],
    "onnx": ["tensorflow", "tf2onnx", "onnx", "onnxruntime"],
    "tflm": ["tflite_micro", "yaml"],
}
_EXTRAS = {"tflm": "tflm"}  # of the others, "export"


def require_packages(format):
    """Raise ImportError, naming the extra to install, when a package is missing."""
    needed = list(PACKAGES[format])
    if keras.backend.backend() != "tensorflow":
        needed.append("cloudpickle")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Exporting to {format} needs {', '.join(missing)}, not installed here: "
            f'pip install "kprune[{_EXTRAS.get(format, "export")}]"'
        )
