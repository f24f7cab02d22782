"""Running a Keras model beside the file made from it, and how far apart they may be."""

import dataclasses

import keras
import numpy as np

from kprune._keras.precision import float32_compute
from kprune._system.errors import ExportError, VerificationError
from kprune.graphs.signature import output_names
from kprune.runtimes.batches import CHUNK, batches, join
from kprune.runtimes.keras import call

# How far a file's outputs may be from the Keras model's before it is refused. This catches files
# that are broken; what a sound file costs in accuracy is for data to say, not for a tolerance.
#
# Without quantization both sides compute in float32 and differ by the order of their sums: the
# largest difference, relative to the largest output, was at most 2e-6 over the models in the
# tests. float16 rounds each weight to 11 bits (5e-4): at most 3e-3 was seen.
#
# With integers the largest difference is the tail of a noise and says little (one undecided
# sample moves far), so there the root mean square of the difference counts, relative to that of
# the outputs. Top-1 agreement is reported but not judged: of an untrained model's nearly equal
# scores half change their order at a difference of 0.5%. On trained digit classifiers (MLP, CNN,
# LSTM, 13 inverted residual blocks, 4 transformer blocks) it was at most 0.03 for "dynamic" and
# "int16x8" and 0.07 for "int8", and 0.3 to 0.9 for files that were broken, or calibrated on other
# data than they ran on.
# "int4" was at most 0.1 off on such classifiers, and 0.13 on an untrained MLP of three layers.
TOLERANCES = {None: 1e-4, "codebook": 1e-4, "float16": 1e-2}
TOLERANCES |= {"dynamic": 0.1, "int16x8": 0.1, "int8": 0.25, "int4": 0.4}
_LARGEST_COUNTS = (None, "codebook", "float16")

# Differences are relative to an output's largest magnitude, or to this where that is smaller.
TINY = 1e-6
GENERATED_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far one output of a file is from the Keras model's, over all verification samples.

    Attributes:
        name: the output's name in the file.
        max_abs_diff: largest absolute difference.
        max_rel_diff: the same, divided by the output's largest magnitude in Keras.
        rms_rel_diff: root mean square of the difference, divided by that of the output in Keras.
        top1_agreement: share of samples with the same largest entry, where the output holds class
            scores; None elsewhere.
    """

    name: str
    max_abs_diff: float
    max_rel_diff: float
    rms_rel_diff: float
    top1_agreement: float | None


def compare(name, reference, output, class_scores):
    """Return the `OutputDifference` of two arrays of the same shape.

    Raises:
        VerificationError: the shapes differ, or `output` is not finite where `reference` is.
    """
    if reference.shape != output.shape:
        raise VerificationError(
            f"Output '{name}' has shape {output.shape} in the file and {reference.shape} in Keras."
        )
    a, b = reference.astype("float64"), output.astype("float64")
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        count = int((~np.isfinite(b[finite])).sum())
        raise VerificationError(
            f"Output '{name}' of the file holds {count} NaN or infinite values where the Keras "
            "model's are finite."
        )
    difference = np.abs(a - b)[finite]
    largest = difference.max(initial=0.0)
    scale = np.abs(a[finite]).max(initial=0.0)
    agreement = None
    if class_scores:
        agreement = float((a.argmax(-1) == b.argmax(-1)).mean())
    return OutputDifference(
        name=name,
        max_abs_diff=float(largest),
        max_rel_diff=float(largest / max(scale, TINY)),
        rms_rel_diff=float(_rms(difference) / max(_rms(a[finite]), TINY)),
        top1_agreement=agreement,
    )


def compare_all(reference, outputs):
    """Return the `OutputDifference` of every output from the `Reference`."""
    return [
        compare(*each)
        for each in zip(reference.names, reference.outputs, outputs, reference.class_scores)
    ]


def constant_outputs(reference):
    """Return the names of outputs that are (nearly) the same for every verification sample."""
    return [
        name
        for name, output in zip(reference.names, reference.outputs)
        if len(output) > 1
        and np.ptp(output.astype("float64"), axis=0).max() < 1e-4 * np.abs(output).max()
    ]


def _rms(values):
    return np.sqrt(np.mean(values**2)) if values.size else 0.0


def check(differences, quantize, tolerance=None, reason=None):
    """Refuse a file whose outputs are too far off.

    Args:
        differences: an `OutputDifference` for each output.
        quantize: how the file is quantized; chooses the measure and the tolerance.
        tolerance: replaces the entry of `TOLERANCES`.
        reason: a sentence that says why they may be, and what to do; None if that is not known.

    Raises:
        VerificationError: with the figures, and the reason.
    """
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    largest_counts = quantize in _LARGEST_COUNTS
    measure = "max_rel_diff" if largest_counts else "rms_rel_diff"
    worst = max(differences, key=lambda difference: getattr(difference, measure))
    if getattr(worst, measure) <= tolerance:
        return
    figures = "; ".join(
        f"'{d.name}': largest difference {d.max_abs_diff:.3g} (relative {d.max_rel_diff:.3g}), "
        f"relative root mean square {d.rms_rel_diff:.3g}"
        + (f", top-1 agreement {d.top1_agreement:.1%}" if d.top1_agreement is not None else "")
        for d in differences
    )
    raise VerificationError(
        "The file's outputs are too far from the Keras model's: the "
        f"{'largest' if largest_counts else 'root mean square of the'} relative difference of "
        f"'{worst.name}' is {getattr(worst, measure):.3g}, and at most {tolerance:.3g} is allowed "
        f"with quantize={quantize!r} (pass `tolerance=` to change that). {figures}"
        + (f". {reason}" if reason else "")
    )


def holds_class_scores(model, outputs):
    """Say for each output whether its last axis holds the scores of classes.

    It does when every row is a probability distribution, or when the model is compiled with a
    crossentropy over classes and has this one output.
    """
    loss = getattr(model, "loss", None)
    loss = getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss
    trained_on_classes = isinstance(loss, str) and "categorical" in loss
    result = []
    for output in outputs:
        vector = output.ndim > 1 and output.shape[-1] > 1 and output.dtype.kind == "f"
        distribution = vector and (output >= 0).all() and np.allclose(output.sum(-1), 1, atol=1e-3)
        result.append(bool(distribution or (vector and len(outputs) == 1 and trained_on_classes)))
    return result


@dataclasses.dataclass
class Reference:
    """What the Keras model gives: one name, array and kind for each output, in flat order."""

    names: list
    outputs: list
    class_scores: list


def run_keras(model, signature, arrays, precision=float32_compute):
    """Run the model in its own backend.

    Args:
        model: a built Keras model.
        signature: its `Signature`, with the batch size the model itself asks for.
        arrays: one array for each input, samples along the first axis.
        precision: a context manager that sets what the model computes in.

    Returns:
        A `Reference`.

    Raises:
        ExportError: the model fails on these inputs, or gives NaN.
    """
    size = signature.flat[0].shape[0] or min(CHUNK, len(arrays[0]))
    collected = []
    try:
        with precision(model):
            for batch in batches(arrays, size):
                tensors = [keras.ops.convert_to_tensor(array) for array in batch]
                structure, leaves = call(model, signature.pack(tensors))
                collected.append(leaves)
    except Exception as error:
        raise ExportError(
            f"The Keras model '{model.name}' fails on the verification inputs, so there is "
            "nothing to compare a file with. Pass `inputs=` with samples that it can run on. "
            f"Received: {[array.shape for array in arrays]}. Its error: {error}"
        ) from error
    outputs = join(collected, size, len(arrays[0]))
    names = output_names(model, structure, taken=[spec.name for spec in signature.flat])
    if any(np.isnan(output).any() for output in outputs if output.dtype.kind == "f"):
        raise ExportError(
            f"The Keras model '{model.name}' itself gives NaN on the verification inputs. Check "
            "its weights, or pass `inputs=` with samples that it can run on."
        )
    return Reference(names, outputs, holds_class_scores(model, outputs))
