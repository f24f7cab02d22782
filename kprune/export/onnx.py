"""`export_onnx`: a file for ONNX Runtime."""

import dataclasses
from typing import Any

import keras

from kprune._system.errors import ExportError
from kprune._system.quiet import quiet
from kprune._system.type_aliases import FilePath, InputShape
from kprune.export import onnx_int8, transport
from kprune.export.pipeline import Format, export
from kprune.export.report import ExportReport
from kprune.export.sparse_tflite import AUTO, Made
from kprune.formats.onnx import float16, sparse_initializers
from kprune.formats.onnx.constants import onnx_constants
from kprune.formats.onnx.quantization import left_in_float
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.targets.outlook import outlook
from kprune.targets.target import TARGETS

QUANTIZE = (None, "float16", "dynamic", "int8")
NEWEST_OPSET = 18  # of tf2onnx
_XLA_HINT = " (a function decorated with `tf.function(jit_compile=True)`: leave jit_compile out)"


class ONNX(Format):
    """`.onnx` files.

    Args:
        sparse: True, False or `"auto"`.
    """

    suffix = "onnx"
    runtime = OnnxRuntime

    def __init__(self, sparse=False):
        self.sparse, self.for_size = sparse, bool(sparse)

    def make(self, model, request):
        """Convert the model in float32, then quantize it, then store sparse what pays."""
        plain = dataclasses.replace(request, quantize=None, calibration=None)
        made = Made(transport.convert(model, plain), model)
        if request.quantize:
            self.inspect(made.blob, plain)  # the quantizer will run it
            if request.quantize == "float16":
                made.blob = float16.transform(made.blob)
            else:
                made.blob = onnx_int8.quantize(made.blob, request)
        if self.sparse:
            self._encode(made)
        return made

    def _encode(self, made):
        blob = sparse_initializers.transform(made.blob)
        problem = "no weight would take fewer bytes" if blob is made.blob else None
        if problem is None:
            try:
                with quiet():
                    self.runtime(blob)
            except Exception as error:
                problem = f"ONNX Runtime does not load the file: {type(error).__name__}: {error}"
        if problem is None:
            count, sparse, dense = sparse_initializers.saved(made.blob, blob)
            made.blob = blob
            made.notes.append(
                f"{count} constants are stored sparse, in {sparse:,} bytes instead of {dense:,}: "
                "smaller, not faster, as ONNX Runtime makes them dense at loading"
            )
        elif self.sparse is True:
            raise ExportError(f"Nothing can be stored sparse: {problem}. Use sparse='auto'.")
        else:
            made.notes.append(f"stored dense: {problem}")

    def constants(self, blob):
        """Return the constants of rank 2 or more."""
        return onnx_constants(blob)

    def outlooks(self, blob, request, model):
        """Say what the zeros are worth: nothing, in time."""
        return [outlook(None, TARGETS["onnxruntime"], model)]

    def inspect(self, blob, request):
        """Refuse what is not valid ONNX, such as tf2onnx makes of operators it does not know.

        Note what a quantized file leaves in float32.
        """
        import onnx

        try:
            onnx.checker.check_model(blob)
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"The model has an operation that opset {request.opset} of ONNX has not, so the "
                f"file is not valid: {str(error).splitlines()[0]}"
                + (_XLA_HINT if "PartitionedCall" in str(error) else "")
            ) from error
        return _quantization_notes(blob, request.quantize)


def _quantization_notes(blob, quantize):
    notes = []
    if quantize == "int8":
        notes.append("inputs and outputs stay float32; the file quantizes them itself")
    in_float = left_in_float(blob) if quantize else []
    if "Loop" in in_float:
        in_float.remove("Loop")
        notes.append(
            "left in float32: weights in loops over time, which GRU, SimpleRNN and LSTM with a "
            "mask become (ONNX Runtime's quantizer does not look into loops)"
        )
    if in_float:
        why = {
            "float16": "some are beyond the range of float16",
            "dynamic": "ONNX Runtime has no fast or safe kernel for them with dynamic ranges",
            "int8": "ONNX Runtime's quantizer leaves them out",
        }[quantize]
        notes.append(f"left in float32: weights of {', '.join(in_float)} ({why})")
    return notes


def export_onnx(
    model: keras.Model,
    path: FilePath,
    quantize: str | None = None,
    representative_data: Any = None,
    batch_size: int | None = None,
    sparse: bool | str = False,
    *,
    opset: int = NEWEST_OPSET,
    input_shape: InputShape | None = None,
    inputs: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Write a Keras model as an `.onnx` file that has run in ONNX Runtime and agrees with Keras.

    The model is converted through TensorFlow and tf2onnx (in a child process when Keras runs on
    JAX or torch, so that the graph is the same whatever trained it), validated with
    `onnx.checker`, loaded in ONNX Runtime and run beside the Keras model. Only then does the file
    appear at `path`; until then, and on any error, what was there before stays.

    Example:

    ```python
    model = kprune.strip_pruning(model)
    print(kprune.export_onnx(model, "model.onnx"))
    kprune.export_onnx(model, "int8.onnx", quantize="int8", representative_data=x_train)
    ```

    Args:
        model: a built Keras 3 model without pruning machinery. Mixed-precision models are
            exported in float32.
        path: the file, ending in `.onnx`; its directory must exist.
        quantize: how weights (and activations) are stored. Zeros stay zeros.

            - `None`: float32.
            - `"float16"`: weights in 16 bits, arithmetic in float32. Half the size, as fast.
            - `"dynamic"`: weights of dense and recurrent layers in 8 bits, activations quantized on
              the fly; for transformers. Convolutions and embeddings stay float32.
            - `"int8"`: weights and activations in 8 bits, by onnxruntime.quantization (QDQ, a
              scale for each channel); for convolutional models. Inputs and outputs stay float32.
              Needs `representative_data`.

            8-bit weights take 7 of the bits: x86 processors without VNNI add pairs of products
            in 16 bits, which would overflow.

            A report says which weights stay in float32. Faster or not depends on model and
            processor: measure with `kprune.benchmark`.
        representative_data: what the model will see, to calibrate `"int8"` with: arrays of
            samples shaped like the model's inputs; or an iterable (generator,
            `tf.data.Dataset`) of batches, single samples, or `(inputs, targets)`; or a function
            returning one. Up to 512 samples are used. Given with any other `quantize`, it serves
            as verification inputs only.
        batch_size: the file's batch size; None leaves it free.
        sparse: store weights as ONNX's `sparse_initializer` where that takes fewer bytes (float32:
            from about 43% zeros on, 8 bits: 75%). The file is smaller, not faster: ONNX Runtime
            makes them dense at loading. Of what is compressed on its way, a dense file is the
            smaller one up to 80 or 90% zeros. Other tools may not read it: the shape inference of
            `onnx` does not.

            - `"auto"`: weight by weight, where it pays; dense where ONNX Runtime does not load
              the file, and the report says why.
            - True: an error where `"auto"` would store all dense.
            - False: dense.
        opset: version of ONNX's operator set, at most 18; for `"dynamic"` and `"int8"` at least
            13.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            file's sizes, where the model leaves them open (None: the file leaves them open, too).
            By default all of them stay dynamic.
        inputs: samples to compare the outputs on, structured like the model's inputs. By default
            some of `representative_data`, else generated: ids inside the vocabulary for inputs
            that feed an Embedding, normally distributed floats elsewhere. A subclassed model's
            inputs get their dtypes from here.
        tolerance: the difference to allow, instead of the default. For `None` (default 1e-4) and
            `"float16"` (1e-2): the largest absolute difference of an output divided by the
            largest magnitude of that output in Keras. For `"dynamic"` (0.1) and `"int8"` (0.25):
            the root mean square of the difference divided by that of the output. These catch
            broken files; measure what quantization costs on test data.

    Zeros make no file faster here, which a `NotFasterWarning` says of float files, unless `sparse`
    stores them for its size.

    Returns:
        An `ExportReport`: size, differences, top-1 agreement, sparsity of each stored weight.

    Raises:
        ValueError, TypeError: a model that is not built, still wrapped, or not Keras 3; `"int8"`
            without `representative_data`; an opset out of range; sizes that the model does not
            accept; other bad arguments.
        OSError: nothing can be written at `path`.
        ExportError: the conversion failed, the file does not run, or the disk is full.
        VerificationError: the file runs, but its outputs are beyond the tolerance.
        ImportError: packages are missing.
    """
    if not isinstance(opset, int) or not 1 <= opset <= NEWEST_OPSET:
        raise ValueError(
            f"`opset` must be an integer of at most {NEWEST_OPSET}, the newest that tf2onnx "
            f"writes. Received: opset={opset!r}"
        )
    if quantize not in QUANTIZE:
        raise ValueError(f"`quantize` must be one of {QUANTIZE}. Received: {quantize!r}")
    if sparse != AUTO and not isinstance(sparse, bool):
        raise ValueError(f"`sparse` must be 'auto', True or False. Received: {sparse!r}")
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "quantize='int8' needs `representative_data`: some hundred samples of what the model "
            "will see, to find the ranges of its activations."
        )
    if quantize in ("dynamic", "int8") and opset < onnx_int8.OPSET_FOR_INTEGERS:
        raise ValueError(
            f"quantize={quantize!r} needs an opset of at least "
            f"{onnx_int8.OPSET_FOR_INTEGERS}. Received: opset={opset}"
        )
    return export(
        model,
        path,
        ONNX(sparse),
        batch_size=batch_size,
        input_shape=input_shape,
        representative_data=representative_data,
        inputs=inputs,
        tolerance=tolerance,
        quantize=quantize,
        opset=opset,
    )
