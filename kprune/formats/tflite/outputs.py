"""The outputs of a `.tflite` file."""

from kprune.formats.tflite.file import operator_name, parsed


def output_units(blob):
    """Return {name: what one step of its integers stands for} of a file's outputs.

    Outputs that come from no integers directly have None. Names are those of the signature.

    Args:
        blob: the bytes of a TFLite file.
    """
    file = parsed(blob)
    graph = file.subgraphs[0]
    source = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if operator_name(file.operatorCodes[operator.opcodeIndex]) == "DEQUANTIZE"
    }
    units = {}
    for signature in file.signatureDefs or []:
        for entry in signature.outputs:
            tensor = graph.tensors[source.get(entry.tensorIndex, entry.tensorIndex)]
            quantization = tensor.quantization
            scales = None if quantization is None else quantization.scale
            known = scales is not None and len(scales) == 1
            units[entry.name.decode()] = float(scales[0]) if known else None
    return units
