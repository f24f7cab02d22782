"""Quantizing ONNX files: float16 weights, and 8 bits by ONNX Runtime's own quantizer."""

import graphlib

import numpy as np

from kprune._system.errors import ExportError
from kprune._system.quiet import quiet
from kprune._system.workplace import workplace
from kprune.formats import features
from kprune.runtimes import verification

OPSET_FOR_INTEGERS = 13  # the first with a scale for each channel
# Dynamic convolutions (ConvInteger) are left out: 9 times slower than in float32 (MobileNetV2).
# So are embeddings (Gather): with a masked LSTM behind one, ONNX Runtime 1.31 aborts the process.
_DYNAMIC = ["MatMul", "Gemm", "LSTM"]
_MOVES = ("Cast", "Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather", "Loop")


def quantize(blob, request):
    """Return the bytes of a float32 ONNX file quantized as `request` asks for.

    Zeros stay zeros: 8-bit weights are symmetric around zero, with a scale for each channel. They
    take 7 of the 8 bits: x86 processors without VNNI add two products of 8 bits in 16, which
    overflows, silently, and the file would be right here and wrong there.

    Args:
        blob: the bytes of a valid file.
        request: a `Request`, with calibration data for `"int8"`.

    Raises:
        ExportError: ONNX Runtime's quantizer fails.
    """
    if request.quantize == "float16":
        return _float16(blob)
    transcript = None
    with workplace() as folder:
        # Files and not protos: the quantizer changes the protos it is given.
        (folder / "float.onnx").write_bytes(blob)
        try:
            with quiet() as transcript:
                {"dynamic": _dynamic, "int8": _static}[request.quantize](folder, request)
        except Exception as error:
            printed = transcript.tail(5) if transcript else ""
            raise ExportError(
                f"ONNX Runtime's quantizer failed with quantize={request.quantize!r}. "
                f"{type(error).__name__}: {error}"
                + (f"\nIt printed:\n{printed}" if printed else "")
            ) from error
        return _in_order((folder / "quantized.onnx").read_bytes())


def _in_order(blob):
    """Sort the nodes: the quantizer's own sort does not see what the graphs inside a node read."""
    import onnx

    model = onnx.ModelProto.FromString(blob)
    nodes = list(model.graph.node)
    maker = {name: i for i, node in enumerate(nodes) for name in node.output}
    needs = {
        i: {maker[name] for name in _read_by(node) if name in maker} for i, node in enumerate(nodes)
    }
    ordered = [nodes[i] for i in graphlib.TopologicalSorter(needs).static_order()]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model.SerializeToString()


def _read_by(node):
    """The names of the tensors that a node and the graphs inside it read."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names.update(*(_read_by(inner) for inner in attribute.g.node))
            names.update(output.name for output in attribute.g.output)
    return names


def _dynamic(folder, request):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        folder / "float.onnx",
        folder / "quantized.onnx",
        op_types_to_quantize=_DYNAMIC,
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )


def _static(folder, request):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Folds and fuses what ONNX Runtime would at loading, where quantized operators would be in
    # the way: without it the int8 MobileNetV2 is slower than float32. Symbolic shapes need sympy.
    quant_pre_process(folder / "float.onnx", folder / "folded.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "folded.onnx",
        folder / "quantized.onnx",
        _reader(folder / "folded.onnx", request),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # Unsigned activations are what x86 has instructions for: with signed ones the int8
        # MobileNetV2 took 1.10 of the time of float32, with unsigned ones 0.70.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
        nodes_to_exclude=_normalizing(folder / "folded.onnx"),
        extra_options={"WeightSymmetric": True},
    )


def _normalizing(path):
    """The names of the nodes that normalize the inputs: see `features`."""
    import onnx

    graph = onnx.load(path).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        values = [constants[name] for name in node.input if name in constants]
        nodes.append(
            features.Node(
                name=node.name,
                scales=node.op_type in ("Add", "Sub", "Mul", "Div") and len(values) == 1,
                moves=node.op_type in _MOVES,
                by_feature=any(value.min() < value.max() for value in values if value.size),
                inputs=[name for name in node.input if name and name not in constants],
                outputs=list(node.output),
            )
        )
    inputs = [value.name for value in graph.input if value.name not in constants]
    return [name for name in features.normalizing(nodes, inputs) if name]


def _reader(path, request):
    """Feed the calibration data to the quantizer, in batches of the file's size."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    specs, arrays = request.signature.flat, request.calibration
    size = specs[0].shape[0] or min(verification.CHUNK, len(arrays[0]))
    used = {value.name for value in onnx.load(path).graph.input}
    feeds = (
        {spec.name: array for spec, array in zip(specs, batch) if spec.name in used}
        for batch in verification.batches(arrays, size)
    )

    class Reader(CalibrationDataReader):
        def get_next(self):
            return next(feeds, None)

    return Reader()


def _float16(blob):
    """Store weights in 16 bits, each with a Cast to float32, which is folded at loading.

    A graph that computes in float16, as the converters of onnxruntime.transformers and
    onnxconverter-common write it, is as small, and slower on CPUs, where ONNX Runtime has few such
    kernels and casts around every operator (1.2 to 1.3 times, MobileNetV2 and a transformer).
    """
    import onnx

    model = onnx.ModelProto.FromString(blob)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            with np.errstate(over="ignore"):
                values = onnx.numpy_helper.to_array(tensor).astype("float16")
            if np.isfinite(values).all():
                name, stored = tensor.name, f"{tensor.name}_float16"
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, stored))
                casts.append(
                    onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT)
                )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def left_in_float(blob):
    """Return the types of the operators whose weights the file stores in float32, sorted."""
    import onnx

    graphs, constants, found = [onnx.ModelProto.FromString(blob).graph], set(), set()
    while graphs:
        graph = graphs.pop()
        sparse = (tensor.values for tensor in graph.sparse_initializer)
        constants |= {
            tensor.name for tensor in sparse if tensor.data_type == onnx.TensorProto.FLOAT
        }
        constants |= {
            tensor.name
            for tensor in graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
        }
        for node in graph.node:
            graphs += [each.g for each in node.attribute if each.HasField("g")]
            # A loop is given the weights that it multiplies with, among others.
            weights = node.input if node.op_type == "Loop" else node.input[:3]
            if node.op_type in _WEIGHTED and constants.intersection(weights):
                found.add(node.op_type)
    return sorted(found)
