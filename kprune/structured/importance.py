"""Which channels matter: one score a channel, from all the variables it lives in."""

import keras
from keras import ops

from kprune._system.type_aliases import Tensor
from kprune.pruning.criteria import Criterion

_SMALLEST = 1e-12


@keras.saving.register_keras_serializable(package="kprune")
class BatchNormScale(Criterion):
    """|gamma| of the batch normalizations that scale a channel.

    To be told apart, scales must be trained towards zero: see `kprune.structured.Slimming`. Groups
    without a batch normalization are scored by the magnitude of their weights. Liu et
    al., "Learning efficient convolutional networks through network slimming" (2017).

    Example:

    ```python
    scale = kprune.structured.BatchNormScale()
    small = kprune.prune_channels(model, flops=0.5, criterion=scale)
    ```
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        return ops.abs(weight)


def channel_scores(group, criterion, scores_of):
    """Return one score for each channel of a group; their mean is 1.

    In every variable the scores of a channel's weights are added up and divided by the
    mean over the channels, so that large variables have no more say than small ones and
    groups can be compared; a channel's score is the mean over its variables. As in
    DepGraph (Fang et al., 2023).

    Args:
        group: a `ChannelGroup`.
        criterion: a `Criterion`.
        scores_of: function from a variable to a tensor of its shape, its weights' scores; None
            for a variable that has no say.

    Returns:
        Float tensor [channels].
    """
    found = []
    for slot in _voters(group, criterion):
        scores = scores_of(slot.use.variable)
        if scores is None:
            continue
        scores = channel_sums(slot, ops.cast(scores, "float32"), group.channels)
        scores = criterion.combine(scores)
        found.append(scores / ops.maximum(ops.mean(scores), _SMALLEST))
    return sum(found) / len(found)


def channel_sums(slot, values, channels):
    """Add up the values of a slot's variable, channel by channel.

    Args:
        slot: a `Slot`.
        values: float tensor of the variable's shape.
        channels: int, how many channels the group has.

    Returns:
        Float tensor [channels].
    """
    others = [axis for axis in range(len(values.shape)) if axis != slot.axis]
    # Positions of other groups go to a segment of their own.
    index = ops.convert_to_tensor(slot.index % (channels + 1), "int32")
    return ops.segment_sum(ops.sum(values, axis=others), index, channels + 1)[:channels]


def _voters(group, criterion):
    stored = [slot for slot in group.slots if slot.use.variable is not None]
    if isinstance(criterion, BatchNormScale):
        scales = [slot for slot in stored if slot.use.scales]
        if scales:
            return scales
    return [slot for slot in stored if slot.use.applications] or stored
