"""tfmot.quantization.keras: what to use instead."""

from kprune.tfmot._missing import not_here

_CALLBACK = (
    "add kprune.QuantizationAware() to the callbacks of `fit`, and export with "
    'kprune.export_tflite(model, path, quantize="int8", representative_data=x).'
)
_LAYERS = f"name the layers in kprune.QuantizationAware(layers=[...]); {_CALLBACK}"
_FIXED = (
    "kprune.QuantizationAware has one scheme, that of the int8 files which kprune.export_tflite "
    "writes: 8 bits, a scale for each output channel of a kernel."
)
_TWO = "add kprune.Pruning(...) and kprune.QuantizationAware() to the callbacks of one `fit`."

NOT_HERE = {
    "QuantizeConfig": _FIXED,
    "QuantizeLayoutTransform": _FIXED,
    "QuantizeRegistry": _FIXED,
    "QuantizeScheme": _FIXED,
    "QuantizeWrapper": _CALLBACK,
    "QuantizeWrapperV2": _CALLBACK,
    "collab_opts": _TWO,
    "default_8bit": _FIXED,
    "experimental": _FIXED,
    "fix_input_output_range": "kprune.export_tflite takes the ranges from `representative_data`.",
    "graph_transformations": _FIXED,
    "quantize_annotate_layer": _LAYERS,
    "quantize_annotate_model": _CALLBACK,
    "quantize_apply": _LAYERS,
    "quantize_model": _CALLBACK,
    "quantize_scope": "a model trained with kprune.QuantizationAware is plain Keras, and opens "
    "without a scope.",
    "quantizers": _FIXED,
    "remove_input_range": "kprune.export_tflite takes the ranges from `representative_data`.",
}

__getattr__ = not_here(__name__, NOT_HERE)
