"""`export_tflite`: a file for LiteRT."""

import dataclasses
from typing import Any

import keras

from kprune._system.errors import ExportError
from kprune._system.packages import require_packages
from kprune._system.type_aliases import FilePath, InputShape
from kprune.export import c_array as c_arrays
from kprune.export import ethos_u, integer_io, sparse_tflite, tflm, transport
from kprune.export.pipeline import INTEGER_ONLY, Finished, Format, export
from kprune.export.report import ExportReport
from kprune.formats.quantization import few_levels
from kprune.formats.tflite import codebooks, int4
from kprune.formats.tflite.codebooks import CODEBOOK
from kprune.formats.tflite.constants import tflite_constants
from kprune.formats.tflite.int4 import INT4
from kprune.formats.tflite.operators import tflite_operators
from kprune.runtimes.litert import LiteRT
from kprune.targets.target import Target, get_target

QUANTIZE = (None, "float16", "dynamic", "int8", "int16x8", INT4, CODEBOOK)


class TFLite(Format):
    """`.tflite` files.

    Args:
        sparse: True, False or `"auto"`.
        target: the name of the target the file is for; None for any.
        compiler: what compiles the file for the target, an `ethos_u.Compiler`; None for nothing.
        c_array: whether to write what the device runs as an array in C as well.
    """

    suffix = "tflite"
    runtime = LiteRT

    def __init__(self, sparse=False, target=None, compiler=None, c_array=False):
        self.sparse, self.target, self.compiler = sparse, target, compiler
        self.c_array = c_array

    def make(self, model, request):
        """Convert the model, its weights sparse where that pays, or as codes."""
        if tflm.is_for(self.target):
            return tflm.make(model, request, self.sparse, self.target)
        if request.quantize == CODEBOOK:
            blob = transport.convert(model, dataclasses.replace(request, quantize=None))
            return sparse_tflite.Made(codebooks.transform(blob, model), model)
        if request.quantize == INT4:
            blob = transport.convert(model, dataclasses.replace(request, quantize=None))
            return sparse_tflite.Made(int4.transform(blob), model)
        sparse = self.sparse if self.compiler is None else False
        return sparse_tflite.make(model, request, sparse, self.target)

    def beside(self, path):
        """Return the paths of what a compiler makes for the target, and of the array in C."""
        compiled = ethos_u.beside(path) if self.compiler else []
        of_device = compiled[0] if compiled else path
        return compiled + (c_arrays.beside(of_device) if self.c_array else [])

    def finish(self, verified, show):
        """Compile the file, or run it in the target's own runtime; make the array in C."""
        tensors = integer_io.file_tensors(verified.blob)
        integer_io.check_made(tensors, verified.request.io)
        if self.compiler:
            done = self.compiler.finish(verified, show)
            name, of_device = ethos_u.beside(verified.path)[0].name, done.beside[0]
        else:
            run = tflm.is_for(self.target)
            done = tflm.finish(verified, show) if run else Finished(verified.blob)
            name, of_device = verified.path.name, done.blob
        done.facts["io"] = tensors
        if self.c_array:
            done.beside += c_arrays.sources(of_device, name)
        return done

    def constants(self, blob):
        """Return the constants of rank 2 or more."""
        return tflite_constants(blob)

    def outlooks(self, blob, request, model):
        """Say what the zeros are worth; those under codes are there for the file's size."""
        if request.quantize in (CODEBOOK, INT4):
            return []
        if self.compiler:
            return self.compiler.outlooks(blob, model)
        return sparse_tflite.outlooks(blob, self.target, model)

    def inspect(self, blob, request):
        """Refuse a file that would read out of bounds; note what stays in float or dense."""
        if tflm.is_for(self.target):
            tflm.refuse(blob, self.target)
        operators = tflite_operators(blob)
        if any(name == "DEQUANTIZE" and tensors[0].sparse for name, tensors in operators):
            raise ExportError(
                "The converter wrote a float16 weight in 1x4 sparse blocks, which LiteRT would "
                "read as if it were dense, out of bounds. Use sparse=True without quantize, or "
                "quantize='float16' without sparse; unstructured zeros do work with both."
            )
        notes = []
        if self.sparse is True and not any(t.sparse for _, tensors in operators for t in tensors):
            notes.append(
                "no weight is stored sparse: TFLite does so for weights of dense layers and of 2D "
                "convolutions that are at least 30% zero"
            )
        if request.quantize in INTEGER_ONLY:
            if request.io == integer_io.FLOAT:
                notes.append("inputs and outputs stay float32; the file quantizes them itself")
            else:
                notes += few_levels(request.signature, request.calibration, request.quantize)
            notes += _float_note(operators)
        return notes


def _float_note(operators):
    in_float = {
        name
        for name, tensors in operators
        if name not in ("QUANTIZE", "DEQUANTIZE") and any(t.dtype == "float32" for t in tensors)
    }
    if not in_float:
        return []
    return [f"without an integer kernel, and left in float: {', '.join(sorted(in_float))}"]


def export_tflite(
    model: keras.Model,
    path: FilePath,
    quantize: str | None = None,
    representative_data: Any = None,
    batch_size: int | None = 1,
    sparse: bool | str = "auto",
    *,
    io: str = integer_io.FLOAT,
    c_array: bool = False,
    target: Target | str | None = None,
    input_shape: InputShape | None = None,
    inputs: Any = None,
    tolerance: float | None = None,
    sram: int | None = None,
) -> ExportReport:
    """Write a Keras model as a `.tflite` file that has run in LiteRT and agrees with Keras.

    The model is converted through TensorFlow (in a child process when Keras runs on JAX or
    torch), loaded in LiteRT's default interpreter and run beside the Keras model. Only then does
    the file appear at `path`; until then, and on any error, what was there before stays.

    Example:

    ```python
    model = kprune.strip_pruning(model)
    report = kprune.export_tflite(model, "model.tflite", sparse=True)
    print(report)
    kprune.export_tflite(model, "int8.tflite", quantize="int8", representative_data=x_train)
    ```

    Args:
        model: a built Keras 3 model without pruning machinery. Mixed-precision models are
            exported in float32.
        path: the file, ending in `.tflite`; its directory must exist.
        quantize: how weights (and activations) are stored.

            - `None`: float32.
            - `"float16"`: weights in 16 bits, arithmetic in float32. Half the size.
            - `"codebook"`: weights that `WeightClustering` has clustered, as 8-bit codes, which
              LiteRT turns into floats when it loads the file; arithmetic in float32, and the
              outputs are those of `None`. A quarter, and the smallest under gzip: see
              `compress`. Stored dense.
            - `"dynamic"`: weights in 8 bits, activations quantized on the fly. A quarter.
            - `"int4"`: weights of dense layers in 4 bits, those of convolutions in 8, others in
              float; activations quantized on the fly. An eighth, with every zero kept. Needs
              ai-edge-quantizer (`pip install "kprune[int4]"`).
            - `"int8"`: weights and activations in 8 bits; inputs and outputs too, with `io`. Needs
              `representative_data`.
            - `"int16x8"`: 8-bit weights, 16-bit activations. Needs `representative_data`. For
              convolutional, dense and recurrent models: TFLite has no such kernels for
              Embedding or LayerNormalization.

            Operators without an integer kernel stay in float; the report names them. Recurrent
            layers are unrolled for the last two.
        representative_data: what the model will see, to calibrate `"int8"` and `"int16x8"` with:
            arrays of samples shaped like the model's inputs; or an iterable (generator,
            `tf.data.Dataset`) of batches, single samples, or `(inputs, targets)`; or a function
            returning one. Up to 512 samples are used. Given with any other `quantize`, it serves
            as verification inputs only.
        batch_size: the file's batch size; None leaves it free. LSTM, GRU and other loops over
            time need a fixed one.
        sparse: store weights that are at least 30% zero in TFLite's sparse format: smaller, and
            on some targets faster (see `check`). What keeps a model from that is rewritten in a
            copy, where it is the same function in another form; the report lists it.

            - `"auto"`: where it pays, and the file is fit for its target; else dense, and the
              report says why.
            - True: an error where `"auto"` would fall back. Not with `"dynamic"`, `"int8"` or
              `"int16x8"`, whose sparse files LiteRT does not run.
            - False: dense.
        io: dtype of the inputs and outputs that hold real values: `"float32"`, which the file
            quantizes for itself; or, as microcontrollers take them, `"int8"` or `"uint8"` with
            quantize="int8", `"int16"` with quantize="int16x8". Ids stay int32. The report's `io`
            has the dtype, scale and zero point of each.
        c_array: also write the file as an array in C, `model.cc` and `model.h` beside
            `model.tflite`: see `to_c_array`.
        target: what the file is for, if for one target only: `"litert-arm64"`, `"litert-x86"`,
            `"litert-wasm"`, `"openvino"` or `"tflm"`. By default it must be fit for the first
            three. With `"tflm"` it has run in TensorFlow Lite Micro, too, and
            `quantize="codebook"`, or an integer format of clustered weights, stores up to 128
            values a kernel in its lookup tables, with 1 to 7 bits a weight: a file that only it
            runs.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            file's sizes, where the model leaves them open (None: the file leaves them open, too).
            Many models can be converted with fixed sizes only; the error says which.
        inputs: samples to compare the outputs on, structured like the model's inputs. By default
            some of `representative_data`, else generated: ids inside the vocabulary for inputs
            that feed an Embedding, normally distributed floats elsewhere. A subclassed model's
            inputs get their dtypes from here.
        tolerance: the difference to allow, instead of the default. For `None` and `"codebook"`
            (default 1e-4) and `"float16"` (1e-2): the largest absolute difference of an output
            divided by the largest magnitude of that output in Keras. For `"dynamic"` (0.1),
            `"int16x8"` (0.1), `"int8"` (0.25) and `"int4"` (0.4): the root mean square of the
            difference divided by that of the output. These catch broken files; measure what
            quantization costs on test data.
        sram: bytes of SRAM there are on an Ethos-U: Vela is told to keep to them, and a model that
            needs more is refused.

    For a target such as `"ethos-u55-128"` Vela compiles the file once it has run in LiteRT. Beside
    `model.tflite` are then `model_vela.tflite`, which is what the device runs, and
    `model_vela.json`, Vela's estimate of it (`ExportReport.estimate`).

    Where the zeros of a float file make it faster on none of its targets, a `NotFasterWarning` says
    what would.

    Returns:
        An `ExportReport`: size, differences, top-1 agreement, sparsity of each stored weight.

    Raises:
        ValueError, TypeError: a model that is not built, still wrapped, or not Keras 3;
            `"int8"` or `"int16x8"` without `representative_data`; arguments that do not go
            together; sizes that the model does not accept.
        OSError: nothing can be written at `path`.
        ExportError: the conversion failed, the file does not run, or the disk is full; Vela cannot
            compile it, nothing of it would run on the Ethos-U, or it needs more than `sram`.
        VerificationError: the file runs, but its outputs are beyond the tolerance.
        ImportError: packages are missing.
    """
    _check_kinds(quantize, io, sparse, representative_data)
    if target is not None:
        _check_target(get_target(target), quantize, io, sparse, batch_size)
    return export(
        model,
        path,
        TFLite(sparse, target, _compiler(target, sram), c_array),
        batch_size=batch_size,
        input_shape=input_shape,
        representative_data=representative_data,
        inputs=inputs,
        tolerance=tolerance,
        quantize=quantize,
        io=io,
    )


def _check_kinds(quantize, io, sparse, representative_data):
    """Raise where no file is stored so, or a package is missing that stores it."""
    if quantize not in QUANTIZE:
        raise ValueError(f"`quantize` must be one of {QUANTIZE}. Received: {quantize!r}")
    integer_io.check_io(quantize, io)
    if sparse != sparse_tflite.AUTO and not isinstance(sparse, bool):
        raise ValueError(f"`sparse` must be 'auto', True or False. Received: {sparse!r}")
    if quantize in INTEGER_ONLY and representative_data is None:
        raise ValueError(
            f"quantize={quantize!r} needs `representative_data`: some hundred samples of what the "
            "model will see, to find the ranges of its activations."
        )
    if sparse is True and quantize == CODEBOOK:
        raise ValueError(
            "sparse=True does not go with quantize='codebook', which is smallest dense, under gzip."
        )
    if sparse is True and quantize in ("dynamic", INT4, *INTEGER_ONLY):
        raise ValueError(
            f"sparse=True does not go with quantize={quantize!r}: LiteRT's default interpreter "
            "refuses such a file, or computes wrong outputs from it. Use sparse=True with "
            "quantize=None or 'float16'; or leave sparse out, and let gzip compress the zeros."
        )
    if quantize == INT4:
        int4.require()


def _check_target(target, quantize, io, sparse, batch_size):
    """Raise where a `Target` does not run such files."""
    if "tflite" not in target.formats:
        raise ValueError(
            f"The target {target.name!r} does not run .tflite files: see `export_onnx`."
        )
    if target.quantize is not None and quantize not in target.quantize:
        raise ValueError(
            f"The target {target.name!r} runs files with quantize in {target.quantize} only. "
            f"Received: quantize={quantize!r}"
        )
    integer_io.check_runtime(target, io)
    if target.fixed_shapes and batch_size is None:
        raise ValueError(
            f"The target {target.name!r} runs files of a fixed batch size only. Received: "
            "batch_size=None. Give a number."
        )
    if tflm.is_for(target):
        if sparse is True:
            raise ValueError(
                f"The target {target.name!r} reads no sparse weights. Received: sparse=True. Leave "
                "it out; what helps there is to remove channels (kprune.prune_channels); "
                f"{target.otherwise}."
            )
        require_packages("tflm")


def _compiler(target, sram):
    """Return what compiles the file for a target; None where nothing does."""
    if target is not None and get_target(target).compressed:
        return ethos_u.Compiler(get_target(target), sram)
    if sram is not None:
        raise ValueError(
            "`sram` is what there is on an Ethos-U: give it with a target such as 'ethos-u55-128'. "
            f"Received: sram={sram!r}, target={target!r}"
        )
    return None
