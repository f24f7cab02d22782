"""TensorFlow's converters: a Keras model on the TensorFlow backend becomes the bytes of a file.

It runs where Keras is on TensorFlow: in the user's own process, or in the child that `transport`
starts. `convert` is the only way in, so the day `tf.lite` leaves the tensorflow package, what
replaces it goes there.
"""

import contextlib
import dataclasses
import re
import threading

import keras
import numpy as np

from kprune._keras.layers import flatten_layers
from kprune._keras.precision import float32_compute
from kprune._system.errors import ExportError
from kprune._system.replaced import replaced
from kprune._system.workplace import LOCK, workplace
from kprune.formats.quantization import too_different
from kprune.formats.tflite import folding
from kprune.formats.tflite.quantization import normalizing
from kprune.graphs.signature import Signature, symbolic_inputs
from kprune.graphs.sizes import in_words


@dataclasses.dataclass
class Request:
    """What to make from a model. Plain data: it travels to a child process.

    Attributes:
        format: `"tflite"` or `"onnx"`.
        signature: the file's inputs, batch size included.
        outputs: the file's output names, in the flat order of the model's outputs.
        quantize: `None`, `"float16"`, `"dynamic"`, `"int8"` or `"int16x8"` (TFLite; an ONNX file
            is converted in float32 and quantized afterwards).
        io: the dtype of the file's inputs and outputs that hold real values (TFLite).
        sparse: encode weights with many zeros as sparse (TFLite).
        calibration: one array for each input, for the integer formats.
        opset: the version of ONNX's operators (ONNX).
        unroll: unroll recurrent layers, as for the integer formats (TFLite).
    """

    format: str
    signature: Signature
    outputs: list
    quantize: str | None = None
    io: str = "float32"
    sparse: bool = False
    calibration: list | None = None
    opset: int | None = None
    unroll: bool = False


def convert(model, request):
    """Return the bytes of the file that `request` asks for.

    Raises:
        ExportError: with what to do, where the cause is known.
        Exception: whatever the converter raises, elsewhere.
    """
    return {"tflite": _to_tflite, "onnx": _to_onnx}[request.format](model, request)


def _to_tflite(model, request):
    import tensorflow as tf

    integer = request.calibration is not None
    unroll = integer or request.unroll
    unrolled = _unrolled(model) if unroll else contextlib.nullcontext()
    with workplace() as folder, _convertible(model), unrolled:
        concrete = _traced(model, request)
        if integer:
            _refuse_loops(concrete)
        module = tf.Module()
        module.variables_of_the_model = list(concrete.variables)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        _set_options(converter, request)
        try:
            with _normalizing(request):
                return converter.convert()
        except Exception as error:
            explained = _explained(error, request)
            if explained is None:
                raise
            raise explained from None  # which is a screenful of MLIR


def _set_options(converter, request):
    import tensorflow as tf

    operators = tf.lite.OpsSet
    quantized = [tf.lite.Optimize.DEFAULT] if request.quantize else []
    sparse = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if request.sparse else []
    converter.optimizations = quantized + sparse
    if request.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request.quantize == "int8":
        converter.target_spec.supported_ops = [operators.TFLITE_BUILTINS_INT8]
    if request.quantize == "int16x8":
        # Few operators have 16-bit kernels (LayerNormalization's NEG has none): the rest of such
        # a model may stay in float. The report says which do.
        converter.target_spec.supported_ops = [
            operators.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            operators.TFLITE_BUILTINS,
        ]
    if request.io != "float32":
        converter.inference_input_type = tf.as_dtype(request.io)
        converter.inference_output_type = tf.as_dtype(request.io)
    if request.calibration is not None:
        converter.representative_dataset = lambda: _calibration_feed(request)


@contextlib.contextmanager
def _normalizing(request):
    """Let TFLite's quantizer leave in float32 what normalizes float inputs by their features.

    Integer inputs are normalized in integers, in the first kernel where that can be. Why is in
    `formats.quantization`.

    The converter does not pass on that the quantizer can be told so.
    """
    from tensorflow.lite.python import lite

    original, thread = lite._mlir_quantize, threading.get_ident()

    def quantize(calibrated, *args, **kwargs):
        if threading.get_ident() == thread:
            names = normalizing(calibrated)
            if request.io == "float32":
                kwargs["denylisted_nodes"] = names or None
            elif names:
                calibrated = _integers_normalized(calibrated, names, request)
        return original(calibrated, *args, **kwargs)

    with LOCK, replaced(lite, "_mlir_quantize", quantize):
        yield


def _integers_normalized(calibrated, names, request):
    data = request.signature, request.calibration, request.quantize
    reason = too_different(*data, request.io)
    if reason:
        raise ExportError(reason)
    return folding.transform(calibrated, names)


def _calibration_feed(request):
    specs = request.signature.flat
    size = specs[0].shape[0] or 1
    count = len(request.calibration[0]) // size * size
    for start in range(0, max(count, size), size):
        yield {
            spec.name: np.resize(array[start : start + size], (size, *array.shape[1:]))
            for spec, array in zip(specs, request.calibration)
        }


def _explained(error, request):
    """Return an ExportError with what to do; None where that is not known."""
    text = str(error)
    if "TensorListReserve" in text and request.signature.flat[0].shape[0] is None:
        return ExportError(
            "TFLite has no operators for a loop over time (LSTM, GRU, SimpleRNN, ...) with a free "
            "batch size. Pass batch_size=1, or the batch size you will run with."
        )
    if "Empty min/max" in text and any("int" in spec.dtype for spec in request.signature.flat):
        return ExportError(
            f"TFLite cannot quantize a model with integer inputs as {request.quantize}. Use "
            "quantize='int8' or 'dynamic'."
        )
    missing = re.search(r"^(?:Custom|Flex|TF Select) ops: (.+)$", text, re.MULTILINE)
    if missing:
        return ExportError(_missing_operator(missing[1], request.signature))
    return None


def _missing_operator(names, signature):
    dynamic = in_words(signature.arguments)
    if dynamic:
        return (
            f"TFLite has no operator for {names} where sizes are left free: fix them with "
            f"`input_shape=`, in {dynamic}."
        )
    return (
        f"TFLite has no operator for {names}, which the model uses: write that part with other "
        "operations, or leave it out of the model and do it after the file has run."
    )


def _to_onnx(model, request):
    with _convertible(model):
        proto = _onnx_of_lone_lstm(model, request) or _onnx_proto(
            model, request, _traced(model, request)
        )
    # Below opset 9 tf2onnx lists constants among the inputs, where a caller may replace them.
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    if request.signature.flat[0].shape[0] is None:
        for value in [*proto.graph.input, *proto.graph.output]:
            shape = value.type.tensor_type.shape
            if shape.dim and not shape.dim[0].dim_value:
                shape.dim[0].dim_param = "batch"
    return proto.SerializeToString()


def _onnx_proto(model, request, concrete):
    """Convert a traced model."""
    import tf2onnx

    specs = request.signature.flat
    # Constants that layers captured (Normalization's mean) come after the real inputs, and
    # `tf2onnx.convert.from_function` would make inputs of them too.
    inputs = [tensor.name for tensor in concrete.inputs[: len(specs)]]
    outputs = [concrete.structured_outputs[name].name for name in request.outputs]
    proto, _ = tf2onnx.convert.from_graph_def(
        tf2onnx.tf_loader.from_function(concrete, inputs, outputs),
        name=model.name,
        input_names=inputs,
        output_names=outputs,
        tensors_to_rename={
            **dict(zip(inputs, [spec.name for spec in specs])),
            **dict(zip(outputs, request.outputs)),
        },
        opset=request.opset,
        custom_op_handlers={"Erfc": (_erfc_from_erf, [])},
    )
    return proto


def _onnx_of_lone_lstm(model, request):
    """Convert a model with LSTMs for a batch of 1; None for other models and batches.

    At that size TensorFlow folds away what tf2onnx knows an LSTM by, which becomes a loop over
    time, many times slower: so the batch is dynamic until it is ONNX.
    """
    layers, inputs = flatten_layers(model), symbolic_inputs(model)
    if (
        request.signature.flat[0].shape[0] != 1
        or not any(isinstance(layer, keras.layers.LSTM) for layer in layers)
        or inputs is None
        or any(tensor.shape[0] is not None for tensor in keras.tree.flatten(inputs))
    ):
        return None
    proto = _onnx_proto(model, request, _traced(model, _with_free_batch(request)))
    if not any(node.op_type == "LSTM" for node in proto.graph.node):  # as where there is a mask
        return None
    shapes = {spec.name: spec.shape for spec in request.signature.flat}
    outputs = _traced(model, request).structured_outputs
    shapes |= {name: tensor.shape for name, tensor in outputs.items()}
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ())):
            if size is not None:
                dim.dim_value = size
    return proto


def _with_free_batch(request):
    def free(spec):
        return dataclasses.replace(spec, shape=(None, *spec.shape[1:]))

    arguments = keras.tree.map_structure(free, request.signature.arguments)
    return dataclasses.replace(request, signature=Signature(arguments))


def _erfc_from_erf(graph, node, name, args):
    """Handle TensorFlow's Erfc in tf2onnx, which has none: erfc(x) = 1 - erf(x)."""
    source, outputs = node.input[0], node.output
    dtype, shape = graph.get_dtype(outputs[0]), graph.get_shape(outputs[0])
    graph.remove_node(node.name)
    one = graph.make_const(f"{name}_one", np.array(1, "float32")).output[0]
    erf = graph.make_node("Erf", [source], shapes=[shape], dtypes=[dtype]).output[0]
    return graph.make_node(
        "Sub", [one, erf], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype]
    )


def _traced(model, request):
    """Trace the model as a function of flat, named tensors that returns named outputs."""
    import tensorflow as tf

    def serve(*tensors):
        outputs = model(*request.signature.pack(tensors), training=False)
        leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        # `identity` keeps two names for one tensor, or an input returned as it is, apart.
        return {name: tf.identity(leaf) for name, leaf in zip(request.outputs, leaves)}

    specs = [_tf_spec(spec) for spec in request.signature.flat]
    return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()


def _tf_spec(spec):
    import tensorflow as tf

    return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)


@contextlib.contextmanager
def _convertible(model):
    """Trace in float32, and without XLA: converters cannot look into what XLA will compile.

    Keras wraps grouped convolutions in `tf.function(jit_compile=True)`, because TensorFlow's CPU
    kernel has no groups; the runtimes' kernels do. Functions of other threads stay as they are.
    """
    import tensorflow as tf

    original, thread = tf.function, threading.get_ident()

    def without_xla(func=None, *args, **kwargs):
        if threading.get_ident() == thread:
            kwargs.pop("jit_compile", None)
        return original(func, *args, **kwargs)

    with LOCK, replaced(tf, "function", without_xla), float32_compute(model):
        yield


@contextlib.contextmanager
def _unrolled(model):
    """Unroll recurrent layers inside the block: TFLite's calibrator crashes in loops."""
    layers = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.RNN)]
    settings = [layer.unroll for layer in layers]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer, setting in zip(layers, settings):
            layer.unroll = setting


def _refuse_loops(concrete):
    """Refuse a loop before TFLite's calibrator meets it: it would end the process (SIGSEGV)."""
    definition = concrete.graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes += function.node_def
    loops = sorted({node.name for node in nodes if node.op in ("While", "StatelessWhile")})
    if loops:
        raise ExportError(
            "TFLite cannot calibrate a model with loops for integer quantization. Use "
            "quantize='dynamic' or 'float16', or give recurrent layers a fixed number of time "
            f"steps, so that they can be unrolled. Loops: {', '.join(loops[:5])}"
        )
