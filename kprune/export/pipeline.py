"""The one way every file is made: convert, run beside Keras, compare, and only then keep."""

import contextlib
import dataclasses
import gzip
import math
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from kprune._keras import precision
from kprune._system import files
from kprune._system.errors import ExportError
from kprune._system.packages import require_packages
from kprune._system.quiet import progress, quiet
from kprune._system.workplace import workplace
from kprune.export import checks, transport
from kprune.export.convert import Request
from kprune.export.report import ExportReport
from kprune.export.sparse_tflite import Made
from kprune.formats.quantization import too_different
from kprune.formats.tflite.sparsity import SPARSE_FROM
from kprune.formats.weights import stored_weights
from kprune.graphs import sample_data
from kprune.graphs.inputs import signature_of
from kprune.graphs.sizes import in_words, sized_signature
from kprune.graphs.weights import weights_of
from kprune.runtimes import readers, verification
from kprune.runtimes.batches import CHUNK, batches, join
from kprune.targets.outlook import NotFasterWarning, everywhere_slow
from kprune.training.requests import warn_if_unmet

INTEGER_ONLY = ("int8", "int16x8")  # what needs calibration
_COMPUTED_IN_FLOAT = (None, "float16")  # Other files are chosen for more than their zeros.
_VERIFIED_CALIBRATION_SAMPLES = 64


@dataclasses.dataclass
class Verified:
    """A file that has run in its runtime and agrees with Keras, before it is kept.

    Attributes:
        path: where it will be.
        blob: its bytes.
        request: the `Request` that it was made by.
        arrays: what it ran on: one array for each input, samples along the first axis.
        outputs: what it gave, in the order of `request.outputs`.
        model: the Keras model that it was converted from.
    """

    path: Path
    blob: bytes
    request: Request
    arrays: list
    outputs: list
    model: keras.Model


@dataclasses.dataclass
class Finished:
    """What a target makes of a verified file.

    Attributes:
        blob: the bytes of the file that is kept.
        beside: the bytes of each file of `Format.beside`.
        constants: those of the file that is kept, where `Format.constants` would not find them.
        notes: sentences for the report.
        facts: fields of the report.
    """

    blob: bytes
    beside: list = dataclasses.field(default_factory=list)
    constants: list | None = None
    notes: list = dataclasses.field(default_factory=list)
    facts: dict = dataclasses.field(default_factory=dict)


class Format:
    """What a format brings along: see `TFLite` in tflite.py, `ONNX` in onnx.py."""

    suffix: str  # of the file, and the `format` of a `Request`
    runtime: type  # what runs the file: a class of kprune.runtimes
    target = None  # the only one that the file is for, by its name
    for_size = False  # whether zeros are stored so as to be small, as was asked

    def make(self, model, request):
        """Convert the model; return a `Made`."""
        return Made(transport.convert(model, request), model)

    def inspect(self, blob, request):
        """Return notes on the file's bytes; raise ExportError where they cannot be right."""
        raise NotImplementedError

    def constants(self, blob):
        """Return the file's constants, for `stored_weights`."""
        raise NotImplementedError

    def outlooks(self, blob, request, model):
        """Return an `Outlook` for each target that a file with zeros is for."""
        raise NotImplementedError

    def beside(self, path):
        """Return the paths of the files that are written beside the one at `path`."""
        return []

    def finish(self, verified, show):
        """Return the `Finished` of a `Verified`; `show` tells the user what is done."""
        return Finished(verified.blob)


def export(
    model,
    path,
    format,
    *,
    batch_size,
    input_shape,
    representative_data,
    inputs,
    tolerance,
    **options,
):
    """Make and verify one file; `options` are the rest of the `Request`.

    Returns:
        An `ExportReport`.
    """
    start = time.perf_counter()
    require_packages(format.suffix)
    checks.require_exportable(model)
    checks.require_stateless(model)
    checks.require_batch_size(batch_size)
    warn_if_unmet(model, "exported", stacklevel=4)
    path = files.destination(path, f".{format.suffix}")
    beside = [files.destination(each, each.suffix) for each in format.beside(path)]
    signature = sized_signature(model, signature_of(model, inputs), input_shape)
    file_signature = signature.with_batch(batch_size)
    arrays, calibration, notes = _data(model, signature, inputs, representative_data, batch_size)

    # New files are there before the work, so that what is wrong with their place is, too. The
    # first is moved to its place last.
    with workplace(), contextlib.ExitStack() as places, progress() as show:
        temporary, *others = (
            places.enter_context(files.replacing(each)) for each in (path, *beside)
        )
        show(f"running '{model.name}' in Keras …")
        reference = verification.run_keras(model, signature, arrays)
        notes += _reference_notes(model, signature, arrays, reference)
        request = Request(
            format=format.suffix,
            signature=file_signature,
            outputs=reference.names,
            calibration=calibration if options.get("quantize") in INTEGER_ONLY else None,
            **options,
        )
        show(f"converting '{model.name}' for {format.runtime.name} …")
        made = format.make(model, request)
        blob = made.blob
        notes += made.notes + format.inspect(blob, request)
        files.write(temporary, blob, path)
        show(f"running {path.name} in {format.runtime.name} …")
        outputs = _run(format.runtime, temporary, request, arrays)
        differences = verification.compare_all(reference, outputs)
        reason = calibration and too_different(signature, calibration, request.quantize, request.io)
        verification.check(differences, request.quantize, tolerance, reason)
        done = format.finish(Verified(path, blob, request, arrays, outputs, made.model), show)
        notes += done.notes
        if format.target is None:  # else it is known where the file goes
            notes += readers.notes(blob)
        for place, where, data in zip(
            [temporary, *others], [path, *beside], [done.blob, *done.beside]
        ):
            files.write(place, data, where)
        constants = format.constants(blob) if done.constants is None else done.constants
        weights, note = _stored_weights(made.model, constants)
        notes += note + _float_note(weights, request.quantize)
        outlooks = []
        if any(weight.sparsity >= SPARSE_FROM for weight in weights):
            outlooks = format.outlooks(blob, request, made.model)
    slow = everywhere_slow(outlooks, path.name)
    if slow and request.quantize in _COMPUTED_IN_FLOAT and not format.for_size:
        warnings.warn(slow, NotFasterWarning, stacklevel=3)
    agreements = [d.top1_agreement for d in differences if d.top1_agreement is not None]
    return ExportReport(
        path=str(path),
        format=format.suffix,
        quantize=request.quantize,
        bytes=len(done.blob),
        gzipped_bytes=len(gzip.compress(done.blob, 9, mtime=0)),
        max_abs_diff=max(d.max_abs_diff for d in differences),
        max_rel_diff=max(d.max_rel_diff for d in differences),
        top1_agreement=min(agreements, default=None),
        samples=len(arrays[0]),
        outputs=differences,
        weights=weights,
        seconds=time.perf_counter() - start,
        notes=notes,
        rewrites=made.rewrites,
        outlooks=outlooks,
        beside=[str(each) for each in beside],
        **done.facts,
    )


def _data(model, signature, inputs, representative_data, batch_size):
    """Return verification arrays, calibration arrays or None, and notes."""
    calibration, notes = None, []
    if representative_data is not None:
        calibration, note = sample_data.calibration_arrays(signature, representative_data)
        notes += [note] if note else []
    if inputs is not None:
        return sample_data.arrays_for(signature, inputs), calibration, notes
    if calibration is not None:
        count = len(calibration[0])
        some = np.linspace(0, count - 1, min(count, _VERIFIED_CALIBRATION_SAMPLES)).astype(int)
        return [array[some] for array in calibration], calibration, notes
    own_batch = signature.flat[0].shape[0]
    samples = max(verification.GENERATED_SAMPLES, own_batch or batch_size or 1)
    arrays = sample_data.generate(model, signature, samples)
    if in_words(signature.arguments):
        shapes = {
            s.name: a.shape[1:] for s, a in zip(signature.flat, arrays) if None in s.shape[1:]
        }
        notes.append(f"dynamic dimensions were verified at {shapes} (pass `inputs=` for others)")
    return arrays, calibration, notes


def _reference_notes(model, signature, arrays, reference):
    """Say what limits the comparison: the model's own precision, and outputs that never vary."""
    notes = []
    layers = precision.low_precision_layers(model)
    if layers:
        dtypes = " and ".join(sorted({layer.compute_dtype for layer in layers}))
        try:
            own = verification.run_keras(model, signature, arrays, contextlib.nullcontext)
            differences = verification.compare_all(reference, own.outputs)
            by = f"differ by up to {max(d.max_rel_diff for d in differences):.2g} (relative)"
        except ExportError:
            by = "are not finite"
        notes.append(
            "the file computes in float32, and was compared with the Keras model in float32; in "
            f"{dtypes} the model's own outputs {by}"
        )
    constant = verification.constant_outputs(reference)
    if constant:
        notes.append(
            f"the same for every sample, so hardly verified: {', '.join(constant)} (pass `inputs=` "
            "on which the model says different things)"
        )
    return notes


def _run(runtime, path, request, arrays):
    names = [spec.name for spec in request.signature.flat]
    size = request.signature.flat[0].shape[0] or min(CHUNK, len(arrays[0]))
    feeds = (dict(zip(names, batch)) for batch in batches(arrays, size))
    transcript = None
    try:
        with quiet() as transcript:
            file = runtime(path)
            outputs = [file(feed) for feed in feeds]
    except Exception as error:
        printed = transcript.tail(5) if transcript else ""
        raise ExportError(
            f"The file was made, but does not run in {runtime.name}, so it was not kept. "
            + transport.advice(request)
            + f"{type(error).__name__}: {error}"
            + (f"\nIt printed:\n{printed}" if printed else "")
        ) from error
    collected = [[each[name] for name in request.outputs] for each in outputs]
    return join(collected, size, len(arrays[0]))


def _stored_weights(model, constants):
    kernels, others = [], []
    for weight in weights_of(model):
        if "float" in weight.variable.dtype:
            value = keras.ops.convert_to_numpy(weight.variable.value)
            group = kernels if weight.reason is None else others
            group.append((weight.name, np.asarray(value, dtype="float32")))
    found = stored_weights(constants, kernels, others)
    missing = {name for name, _ in kernels} - {weight.name for weight in found}
    notes = []
    if missing:
        notes = [f"not recognized among the file's constants: {', '.join(sorted(missing))}"]
    return found, notes + _lost_zeros(kernels, found)


def _float_note(weights, quantize):
    """Say which weights are not stored as asked: not clustered, or inside a loop, or small."""
    others = [f"{each.name} ({each.dtype})" for each in weights if each.dtype != "int4"]
    if quantize == "int4" and others:
        return [
            f"not in 4 bits, in which weights of dense layers alone are stored: {', '.join(others)}"
        ]
    in_float = [w.name for w in weights if (w.dtype, w.encoding) == ("float32", "dense")]
    if quantize != "codebook" or not in_float:
        return []
    return [f"stored in float32, not as codes: {', '.join(in_float)}"]


def _lost_zeros(kernels, found):
    """Say where the file has fewer zeros than the model."""
    zeros = {name: 1 - np.count_nonzero(array) / array.size for name, array in kernels}
    lost = [w.name for w in found if w.sparsity < zeros[w.name] - 0.5 / math.prod(w.shape)]
    return [f"not all zeros were kept in: {', '.join(lost)}"] if lost else []
