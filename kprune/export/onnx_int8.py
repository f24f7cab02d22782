"""ONNX files in 8 bits, by ONNX Runtime's own quantizer, which runs them to calibrate."""

from kprune._system.errors import ExportError
from kprune._system.quiet import quiet
from kprune._system.workplace import workplace
from kprune.formats.onnx import node_order
from kprune.formats.onnx.quantization import normalizing
from kprune.runtimes.batches import CHUNK, batches

OPSET_FOR_INTEGERS = 13  # the first with a scale for each channel
# Dynamic convolutions (ConvInteger) are left out: 9 times slower than in float32 (MobileNetV2).
# So are embeddings (Gather): with a masked LSTM behind one, ONNX Runtime 1.31 aborts the process.
_DYNAMIC = ["MatMul", "Gemm", "LSTM"]


def quantize(blob, request):
    """Return the bytes of a float32 ONNX file quantized as `request` asks for.

    Zeros stay zeros: 8-bit weights are symmetric around zero, with a scale for each channel. They
    take 7 of the 8 bits: x86 processors without VNNI add two products of 8 bits in 16, which
    overflows, silently, and the file would be right here and wrong there.

    Args:
        blob: the bytes of a valid file.
        request: a `Request` for `"dynamic"` or `"int8"`, with calibration data for that.

    Raises:
        ExportError: ONNX Runtime's quantizer fails.
    """
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
        return node_order.transform((folder / "quantized.onnx").read_bytes())


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
        nodes_to_exclude=normalizing((folder / "folded.onnx").read_bytes()),
        extra_options={"WeightSymmetric": True},
    )


def _reader(path, request):
    """Feed the calibration data to the quantizer, in batches of the file's size."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    specs, arrays = request.signature.flat, request.calibration
    size = specs[0].shape[0] or min(CHUNK, len(arrays[0]))
    used = {value.name for value in onnx.load(path).graph.input}
    feeds = (
        {spec.name: array for spec, array in zip(specs, batch) if spec.name in used}
        for batch in batches(arrays, size)
    )

    class Reader(CalibrationDataReader):
        def get_next(self):
            return next(feeds, None)

    return Reader()
