"""Files for TensorFlow Lite Micro: what it cannot run is refused, what it runs is run in it."""

import dataclasses
from typing import NamedTuple

import keras
import numpy as np

from kprune._system.errors import ExportError, VerificationError
from kprune._system.quiet import quiet
from kprune.export import sparse_tflite
from kprune.export.pipeline import Finished
from kprune.formats.tflite import lookup_tables
from kprune.formats.tflite.codebooks import CODEBOOK
from kprune.formats.tflite.constants import tflite_constants
from kprune.formats.tflite.operators import tflite_operators
from kprune.formats.tflite.outputs import output_units
from kprune.graphs.sizes import in_words
from kprune.graphs.weights import weights_of
from kprune.runtimes.batches import batches, join
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.tflm import TFLM, run_apart
from kprune.runtimes.verification import compare
from kprune.targets import from_tflite
from kprune.targets.kernels import unfit
from kprune.targets.target import get_target

# How far it is from LiteRT as a rule, relative to an output's largest magnitude: the same sums of
# floats in another order; where floats come after integers, each of which may be one off; and
# where the output is made of integers, by one unit of them.
_FLOATS, _AFTER_INTEGERS = 1e-5, 2e-2
_LOOP_SECONDS = 20.0  # A loop that hangs has no end.
_LOOPS = 1e-3  # How far one that goes right may be from LiteRT's; the file is compared later.
_ROUNDING = 1 + 1e-3  # One unit, in the precision of the outputs.
# How far it may be: the root mean square, relative to that of the output. Its integer kernels of
# tanh, softmax and others round otherwise, which adds up over the steps of a recurrent layer (to
# 0.02 in the tests); a weight that is decoded wrongly makes it 0.1 and more.
_MOST = {True: 0.05, False: 1e-4}


def is_for(target):
    """Whether a target, or None, is one of TensorFlow Lite Micro's."""
    return target is not None and get_target(target).runtime == TFLM.name


def make(model, request, sparse, target):
    """Convert a model: dense, weights for lookup tables in float32, loops where they run.

    Args:
        model: a built Keras model.
        request: a `Request`.
        sparse, target: as of `sparse_tflite.make`.

    Returns:
        A `Made`.

    Raises:
        ExportError: sizes are left open.
    """
    dynamic = in_words(request.signature.arguments)
    if dynamic:
        raise ExportError(
            f"The target {target!r} runs files of fixed sizes only: give `input_shape=` for "
            f"{dynamic}."
        )
    if request.quantize == CODEBOOK:
        request = dataclasses.replace(request, quantize=None)
    made = sparse_tflite.make(model, request, sparse, target)
    if not _runs_loops(made.blob, request):
        unrolled = dataclasses.replace(request, unroll=True)
        made = sparse_tflite.make(model, unrolled, sparse, target)
        made.notes.append(
            f"unrolled over time, which takes room: {TFLM.name} does not run its loops right"
        )
    return made


def _runs_loops(blob, request):
    """Whether a file has no loops, or they run: those that collect a sequence hang, or go wrong."""
    if not any(name == "WHILE" for name, _ in tflite_operators(blob)):
        return True
    rng = np.random.default_rng(0)
    feed = {s.name: rng.normal(size=s.shape).astype(s.dtype) for s in request.signature.flat}
    with quiet():
        expected = LiteRT(blob)(feed)
    try:
        (outputs,) = run_apart(blob, [feed], request.outputs, _LOOP_SECONDS).outputs
    except ExportError:
        return False
    pairs = [(expected[name], output) for name, output in zip(request.outputs, outputs)]
    return all(np.allclose(*pair, rtol=_LOOPS, atol=_LOOPS) for pair in pairs)


def refuse(blob, target):
    """Raise ExportError, naming layers, where a file needs what the target has not."""
    target = get_target(target)
    found = [
        f"'{op.name}' ({op.type}): {why}; {advice}"
        for op, why, advice in unfit(from_tflite.read(blob), target)
    ]
    if not found:  # Those in a loop or a branch have no layer's name.
        names = sorted({name for name, _ in tflite_operators(blob)} - target.operators)
        found = [f"{target.runtime} has no operator {name}" for name in names]
    if found:
        raise ExportError(
            f"The model cannot run on the target {target.name!r}. " + ". ".join(found) + "."
        )


def finish(verified, show):
    """Store clusters in lookup tables, and run the file in TensorFlow Lite Micro.

    Args:
        verified: a `Verified`.
        show: tells the user what is done.

    Returns:
        A `Finished`.

    Raises:
        ExportError: it does not run there, or not in time; nothing to store in tables.
        VerificationError: it computes something else there than in LiteRT.
    """
    blob, tables = verified.blob, _tables(verified)
    if tables:
        show("storing clusters in lookup tables …")
        with quiet():
            blob = lookup_tables.transform(blob, tables)
    show(f"running the file in {TFLM.name} …")
    request, arrays = verified.request, verified.arrays
    names, size = [spec.name for spec in request.signature.flat], request.signature.flat[0].shape[0]
    with quiet():
        file = LiteRT(verified.blob)
    feeds = [file.encoded(dict(zip(names, batch))) for batch in batches(arrays, size)]
    runs = run_apart(blob, feeds, request.outputs)
    decoded = [file.decoded(dict(zip(request.outputs, found))) for found in runs.outputs]
    outputs = join([list(found.values()) for found in decoded], size, len(arrays[0]))
    notes = [_tables_note(verified, blob, feeds, runs, len(tables))] if tables else []
    notes.insert(0, _compared(verified, feeds, outputs, runs.version))
    constants = tflite_constants(blob) + lookup_tables.decoded(blob)
    facts = {"arena_bytes": runs.arena_bytes}
    return Finished(blob, constants=constants, notes=notes, facts=facts)


def _tables(verified):
    """The tables of a file whose weights are clustered; none where they are not."""
    codebook = verified.request.quantize == CODEBOOK
    clustered = _few_values(verified.model)
    # On a microcontroller, clusters have no other use; quantize=None asks for plain floats.
    asked = codebook or (clustered and verified.request.calibration is not None)
    tables = lookup_tables.find(verified.blob) if asked else {}
    if codebook and not tables:
        most = lookup_tables.LARGEST
        why = (
            "they are too small to be smaller so, the layers' operators take no unpacked weights "
            f"({', '.join(lookup_tables.OPERATORS)} do), or the converter has changed them"
            if clustered
            else f"none has {most} values or fewer: train it with kprune.WeightClustering(16)"
        )
        raise ExportError(
            f"No weight of the model '{verified.model.name}' can be stored in TensorFlow Lite "
            f"Micro's lookup tables, of up to {most} values: {why}. Or leave quantize out."
        )
    return tables


def _tables_note(verified, blob, feeds, runs, count):
    """Hold the file with tables against the plain one; return what they cost and save."""
    plain = run_apart(verified.blob, feeds, verified.request.outputs)
    for one, other in zip(plain.outputs, runs.outputs):
        if not all(np.array_equal(*pair, equal_nan=True) for pair in zip(one, other)):
            raise VerificationError(
                f"{TFLM.name} {runs.version} reads lookup tables otherwise than they were written: "
                "the file computes something else with them than without. Leave quantize out, or "
                f"export the model as it was before its weights were clustered."
            )
    return (
        f"{count} weights are in lookup tables: the file takes {len(blob):,} bytes instead of "
        f"{len(verified.blob):,}, and the arena {runs.arena_bytes:,} instead of "
        f"{plain.arena_bytes:,}, as the weights of a layer are unpacked there while it runs"
    )


def _few_values(model):
    """Whether some kernel has so few values that a table holds them."""
    for weight in weights_of(model):
        if weight.is_kernel:
            values = np.asarray(keras.ops.convert_to_numpy(weight.variable))
            if len(np.unique(values)) <= min(lookup_tables.LARGEST, values.size // 2):
                return True
    return False


def _compared(verified, feeds, outputs, version):
    """Compare with LiteRT; return a sentence on it.

    Its optimized kernels round integers in other ways, which adds up over the layers of a network;
    most of TensorFlow Lite Micro's come from its reference kernels, and round as these do.
    """
    of, differences = "LiteRT", _differences(verified, verified.outputs, outputs)
    if not all(each.expected for each in differences):
        of = "LiteRT with its reference kernels"
        with quiet():
            file = LiteRT(verified.blob, reference=True)
            found = [file(feed) for feed in feeds]
        collected = [[each[name] for name in verified.request.outputs] for each in found]
        expected = join(collected, len(next(iter(feeds[0].values()))), len(outputs[0]))
        differences = _differences(verified, expected, outputs)
    most = _MOST[verified.request.calibration is not None]
    for each in differences:
        if not (each.expected or each.rms <= most):
            raise VerificationError(
                f"Output '{each.name}' differs by up to {each.largest:.3g} between {TFLM.name} and "
                f"{of}; the root mean square of the difference is {each.rms:.3g} of the output's, "
                f"and at most {most:.3g} is allowed: version {version} computes something else. To "
                "look into the file, export it without target=."
            )
    nearly = "" if all(each.expected for each in differences) else "nearly "
    said = "; ".join(map(str, differences))
    return f"{TFLM.name} {version} computes {nearly}what {of} does: {said}"


class _Difference(NamedTuple):
    """How far an output is from LiteRT's, and how far it is expected to be at most."""

    name: str
    largest: float
    rms: float
    most: float
    unit: float | None

    @property
    def expected(self):
        return self.largest <= self.most * _ROUNDING

    def __str__(self):
        units = f", {self.largest / self.unit:.0f} units of its integers" if self.unit else ""
        return f"'{self.name}' differs by up to {self.largest:.2g}{units}"


def _differences(verified, expected, outputs):
    units = output_units(verified.blob)
    relative = _AFTER_INTEGERS if verified.request.calibration else _FLOATS
    found = []
    for name, one, other in zip(verified.request.outputs, expected, outputs):
        unit = 1.0 if np.issubdtype(one.dtype, np.integer) else units.get(name)
        scale = np.abs(one[np.isfinite(one)], dtype="float64").max(initial=0.0)
        there = compare(name, one, other, class_scores=False)
        most = unit or relative * scale
        found.append(_Difference(name, there.max_abs_diff, there.rms_rel_diff, most, unit))
    return found
