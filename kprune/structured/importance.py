"""Which channels matter: one score a channel, from all the variables it lives in."""

import keras
import numpy as np
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


@keras.saving.register_keras_serializable(package="kprune")
class GeometricMedian(Criterion):
    """How far a channel's filter is from all others of its layer: what is near them, they replace.

    The sum of the Euclidean distances to the other filters; the channels of the lowest go, those
    nearest to the geometric median, whatever their size. He et al., "Filter pruning via geometric
    median for deep convolutional neural networks acceleration" (2019). For channels alone.

    Example:

    >>> filters = keras.ops.array([[1.0, 1.0], [1.0, 1.125], [-1.0, 0.0]])
    >>> scores = kprune.structured.GeometricMedian().score(filters)
    >>> [round(float(score), 2) for score in scores]
    [2.36, 2.42, 4.53]

    `kprune.prune_channels(model, flops=0.5, criterion=kprune.structured.GeometricMedian())`
    """

    of_channels = True

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        return weight

    def score(self, filters: Tensor) -> Tensor:
        """Return a score for each channel, from float filters [channels, weights of each]."""
        # Of differences to the mean, so that what all have in common does not round them off.
        filters = filters - ops.mean(filters, axis=0, keepdims=True)
        squares = ops.sum(ops.square(filters), axis=1)
        products = ops.matmul(filters, ops.transpose(filters))
        distances = ops.expand_dims(squares, 0) + ops.expand_dims(squares, 1) - 2 * products
        return ops.sum(ops.sqrt(ops.maximum(distances, 0.0)), axis=1)


class _OfActivations(Criterion):
    """A channel's score is the mean over its activations of what `__call__` returns for them."""

    of_channels = True
    of_activations = True


@keras.saving.register_keras_serializable(package="kprune")
class APoZ(_OfActivations):
    """How often a channel's activations on data are above zero: 1 - the average share of zeros.

    Channels that are hardly ever active go, and one that never is goes first. Activations are
    counted where an activation function has been applied, as ReLU: the layer's own or the one that
    follows, also after a batch normalization or an addition; without one, where the next layer with
    weights takes them in. Hu et al., "Network trimming: a data-driven neuron pruning approach
    towards efficient deep architectures" (2016). For `prune_channels` alone, which needs inputs
    for it, and no labels.

    Example: of four examples the first channel is active in one, the second in three.

    >>> activations = keras.ops.array([[0.0, 2.0], [0.0, 0.0], [1.0, 3.0], [0.0, 0.5]])
    >>> active = kprune.structured.APoZ()(activations)
    >>> keras.ops.convert_to_numpy(keras.ops.mean(active, axis=0)).tolist()
    [0.25, 0.75]

    `kprune.prune_channels(model, flops=0.5, criterion=kprune.structured.APoZ(), data=x)`
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Score activations, in the place of weights: 1 above zero, 0 elsewhere.

        Args:
            weight: float tensor of any shape, the activations.
            gradient: not used.

        Returns:
            float32 tensor of that shape.
        """
        return ops.cast(weight > 0, "float32")


@keras.saving.register_keras_serializable(package="kprune")
class MeanActivation(_OfActivations):
    """The mean absolute value of a channel's activations on data.

    Looked at where those of `APoZ` are. Molchanov et al., "Pruning convolutional neural networks
    for resource efficient inference" (2017). For `prune_channels` alone, which needs inputs for it,
    and no labels.

    Example: the means of two channels over two examples.

    >>> activations = keras.ops.array([[0.5, -2.0], [0.0, 4.0]])
    >>> size = kprune.structured.MeanActivation()(activations)
    >>> keras.ops.convert_to_numpy(keras.ops.mean(size, axis=0)).tolist()
    [0.25, 3.0]

    `kprune.prune_channels(model, flops=0.5, criterion=kprune.structured.MeanActivation(), data=x)`
    """

    def __call__(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Score activations, in the place of weights.

        Args:
            weight: float tensor of any shape, the activations.
            gradient: not used.

        Returns:
            Float tensor of that shape.
        """
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
        scores = ops.cast(scores, "float32")
        if criterion.of_channels:
            scores = criterion.score(_filters(slot, scores, group.channels))
        else:
            scores = criterion.combine(channel_sums(slot, scores, group.channels))
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


def _filters(slot, values, channels):
    """The values of a slot's variable as rows, all those of one channel in each."""
    places = np.argsort(slot.index, kind="stable")[np.count_nonzero(slot.index < 0) :]
    rows = ops.take(ops.moveaxis(values, slot.axis, 0), ops.convert_to_tensor(places, "int32"), 0)
    return ops.reshape(rows, (channels, -1))


def _voters(group, criterion):
    stored = [slot for slot in group.slots if slot.use.variable is not None]
    if criterion.of_channels:
        return [slot for slot in stored if slot.makes] or stored
    if isinstance(criterion, BatchNormScale):
        scales = [slot for slot in stored if slot.use.scales]
        if scales:
            return scales
    return [slot for slot in stored if slot.use.applications] or stored
