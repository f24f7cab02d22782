"""Network slimming: train the scales of batch normalizations towards zero."""

import keras

from kprune._keras import backend
from kprune.graphs.functional import functional_form
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from kprune.training.mechanism import InstalledForFit, Mechanism, register


class _Penalty(keras.regularizers.L1):
    """The penalty of `Slimming` on a scale, in the place of a regularizer that is put back."""

    def __init__(self, l1, before):
        super().__init__(l1)
        self.before = before


class PenalizedScales(Mechanism):
    """Batch normalization scales with an L1 penalty in the loss."""

    def install(self, model, l1):
        groups = find_groups(ChannelGraph(functional_form(model)))
        slots = [slot for group in groups if not group.frozen for slot in group.slots]
        scales = {id(s.use.variable): s.use.variable for s in slots if s.use.scales}
        if not scales:
            raise ValueError(
                f"{model.name!r} has no batch normalization that scales channels which can "
                "be removed; see kprune.channel_groups(model)."
            )
        for variable in scales.values():
            variable.regularizer = _Penalty(l1, variable.regularizer)
        backend.recompile(model)

    def describe(self, model):
        if not _penalized(model):
            return []
        return [f"scales of {model.name!r} have a penalty (Slimming, in a `fit` cut short)"]

    def remove(self, model):
        penalized = _penalized(model)
        for variable in penalized:
            variable.regularizer = variable.regularizer.before
        if penalized:
            backend.recompile(model)
        return model


PENALIZED_SCALES = register(PenalizedScales())


def _penalized(model):
    return [v for v in model.variables if isinstance(getattr(v, "regularizer", None), _Penalty)]


class Slimming(InstalledForFit):
    """Adds an L1 penalty on batch normalization scales during `model.fit`.

    The scales of channels that matter little go to zero, so that `BatchNormScale()` can
    tell them apart. Only scales of channels that can be removed are penalized; the
    penalty is part of the loss, and leaves the model when `fit` ends. Liu et al.,
    "Learning efficient convolutional networks through network slimming" (2017).

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.structured.Slimming(1e-4)])
    small = kprune.prune_channels(model, flops=0.5, criterion=kprune.structured.BatchNormScale())
    ```

    Args:
        l1: float > 0, the penalty for each unit of a scale's absolute value.

    Raises:
        ValueError: `l1` that is not above 0; at the start of `fit`: no batch
            normalization that scales channels which can be removed.
    """

    mechanism = PENALIZED_SCALES

    def __init__(self, l1: float = 1e-4) -> None:
        super().__init__()
        if isinstance(l1, bool) or not isinstance(l1, int | float) or not l1 > 0:
            raise ValueError(f"`l1` must be a float above 0. Received: l1={l1!r}")
        self.l1 = l1

    def install(self) -> None:
        self.mechanism.install(self.model, self.l1)
