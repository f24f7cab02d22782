"""`outlook`: in a sentence, whether a file's zeros make it faster on a target, and what would."""

import collections
import dataclasses
import math

import keras
import numpy as np

from kprune.formats.tflite.sparsity import SPARSE_FROM
from kprune.graphs.weights import weights_of
from kprune.report import tables
from kprune.targets.check import FASTER, PRUNE_FURTHER, PRUNE_IN_BLOCKS, check_graph
from kprune.targets.target import NEEDED_SPARSITY

NO_FASTER = 1.05  # A gain that nobody would notice, estimated as it is.
_MARGIN = 3  # Percent of zeros above those needed, so that it is worth it.
_WHOLE = 0.9  # Of the zeros, by which those of pruned channels are told from others.
REMOVE = "kprune.prune_channels does it, or Pruning's pattern=Channels() with kprune.shrink"
_CHANNELS = f"removing channels would make it faster; {REMOVE}"
SHRINK = "whole channels are zero: kprune.shrink(model) takes them out"


class NotFasterWarning(UserWarning):
    """An export wrote zeros that make the file faster on none of its targets.

    Example: where they are for the size of the file,

    ```python
    import warnings

    warnings.simplefilter("ignore", kprune.export.NotFasterWarning)
    ```
    """


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What is to be expected of a file on a target.

    Attributes:
        target: the target's name.
        gain: how many times as fast as dense, estimated from multiply-adds.
        because: why.
        advice: what would be faster, where this is not; else empty.
    """

    target: str
    gain: float
    because: str
    advice: str = ""

    @property
    def is_faster(self) -> bool:
        """Whether anybody would notice."""
        return self.gain >= NO_FASTER

    def __str__(self):
        speed = "no faster than dense"
        if self.is_faster:
            speed = f"about {self.gain:.1f}x as fast as dense (estimated)"
        elif self.gain * NO_FASTER <= 1:
            speed = f"about {1 / self.gain:.1f}x slower than dense (estimated)"
        return "; ".join(filter(None, [f"{speed}: {self.because}", self.advice]))


def outlook(graph, target, model):
    """Return the `Outlook` of a file with zeros.

    Args:
        graph: its `Graph`; None for an ONNX file.
        target: a `Target`.
        model: the Keras model that it was made from.
    """
    found = _outlook(graph, target)
    if not found.is_faster and has_whole_channels(model):
        return dataclasses.replace(found, advice=SHRINK)
    return found


def _outlook(graph, target):
    if not target.rules:
        return Outlook(target.name, 1.0, target.no_kernels, REMOVE)
    report = check_graph("", graph, target)
    sparse = [layer for layer in report.layers if layer.sparsity >= SPARSE_FROM]
    faster = sum(layer.verdict == FASTER for layer in sparse)
    if not sparse:
        return Outlook(target.name, 1.0, "no layer with zeros has a sparse kernel", _CHANNELS)
    if report.estimated_gain >= NO_FASTER:
        of = f"{faster} of the {len(sparse)} layers with zeros have a sparse kernel"
        return Outlook(target.name, report.estimated_gain, of)
    ((reason, advice), _), *_ = collections.Counter(
        (layer.reason, layer.advice) for layer in sparse if layer.verdict != FASTER
    ).most_common() or [((f"only {faster} small layers have a sparse kernel", ""), 0)]
    needed = {PRUNE_IN_BLOCKS: target.blocks_from, PRUNE_FURTHER: float(NEEDED_SPARSITY)}
    if advice in needed:
        least = math.ceil(100 * needed[advice] + _MARGIN) / 100
        share = max(least, min(layer.sparsity for layer in sparse))
        advice += f" (kprune.Pruning({share:.2g}, target={target.name!r}) prunes what it can use)"
    advice = advice.replace("(model, target)", f"(model, {target.name!r})")
    return Outlook(target.name, report.estimated_gain, reason, advice or _CHANNELS)


def has_whole_channels(model):
    """Whether what is zero are whole channels, of which a graph has nothing to tell."""
    zeros = whole = 0
    for weight in weights_of(model):
        if weight.reason is None and len(weight.variable.shape) > 1:
            zero = np.asarray(keras.ops.convert_to_numpy(weight.variable)) == 0
            made = zero.all(axis=tuple(range(zero.ndim - 1)), keepdims=True)
            taken = zero.all(axis=(*range(zero.ndim - 2), zero.ndim - 1), keepdims=True)
            zeros += np.count_nonzero(zero)
            whole += np.count_nonzero(np.broadcast_to(made | taken, zero.shape))
    return whole > _WHOLE * zeros


def everywhere_slow(outlooks, path):
    """Return a sentence on a file that is faster on none of its targets; None if it is on some."""
    if not outlooks or any(one.is_faster for one in outlooks):
        return None
    names = tables.listed([one.target for one in outlooks])
    first = outlooks[0]
    same = all((one.because, one.advice) == (first.because, first.advice) for one in outlooks)
    why = f"{first.because}; {first.advice}"
    if not same:
        why = f"on {first.target}, {why}; the report has the others"
    return f"The zeros in {path} make it no faster on {names}: {why}."
