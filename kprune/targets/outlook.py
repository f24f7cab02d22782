"""`outlook`: in a sentence, whether a file's zeros make it faster on a target, and what would."""

import collections
import dataclasses

from kprune.formats.tflite.sparsity import SPARSE_FROM
from kprune.report import tables
from kprune.targets.check import FASTER, NO_KERNELS, check_graph

_NO_FASTER = 1.05  # A gain that nobody would notice, estimated as it is.
_CHANNELS = "fewer channels would be: kprune.prune_channels, or Pruning's pattern=Channels()"


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
        return self.gain >= _NO_FASTER

    def __str__(self):
        speed = f"about {self.gain:.1f}x as fast as dense (estimated)"
        return "; ".join(
            [f"{speed if self.is_faster else 'no faster than dense'}: {self.because}"]
            + ([self.advice] if self.advice else [])
        )


def outlook(graph, target):
    """Return the `Outlook` of a file with zeros.

    Args:
        graph: its `Graph`; None for an ONNX file.
        target: a `Target`.
    """
    if not target.rules:
        return Outlook(target.name, 1.0, NO_KERNELS, _CHANNELS)
    report = check_graph("", graph, target)
    sparse = [layer for layer in report.layers if layer.sparsity >= SPARSE_FROM]
    faster = sum(layer.verdict == FASTER for layer in sparse)
    if not sparse:
        return Outlook(target.name, 1.0, "no layer with zeros has a sparse kernel", _CHANNELS)
    if report.estimated_gain >= _NO_FASTER:
        of = f"{faster} of the {len(sparse)} layers with zeros have a sparse kernel"
        return Outlook(target.name, report.estimated_gain, of)
    ((reason, advice), _), *_ = collections.Counter(
        (layer.reason, layer.advice) for layer in sparse if layer.verdict != FASTER
    ).most_common() or [((f"only {faster} small layers have a sparse kernel", ""), 0)]
    share = min(layer.sparsity for layer in sparse)
    if advice:
        advice += f" (kprune.Pruning({share:.2g}, target={target.name!r}) prunes what it can use)"
    return Outlook(target.name, report.estimated_gain, reason, advice or _CHANNELS)


def everywhere_slow(outlooks, path):
    """Return a sentence on a file that is faster on none of its targets; None if it is on some."""
    if not outlooks or any(one.is_faster for one in outlooks):
        return None
    names = tables.listed([one.target for one in outlooks])
    first = outlooks[0]
    return f"The zeros in {path} make it no faster on {names}: {first.because}; {first.advice}."
