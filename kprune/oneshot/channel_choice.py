"""Which channels of a model go at once, by what the layers that take them in make of data."""

import collections

import keras
import numpy as np

from kprune.oneshot.elimination import Consumer, eliminate
from kprune.oneshot.linear import linear_of
from kprune.oneshot.moments import moments_of
from kprune.oneshot.reconstruct import problem_of


class ChannelChoice:
    """Chooses channels of a `ChannelMasks` while data go through the model as it is.

    Args:
        masks: the `ChannelMasks`.
        kept: list of bool tensors [channels], of each of its channel groups; as many stay, and
            these where no layer that takes them in was seen.
        examples: int, how many there are in all.
        updates: whether the weights of what stays will be updated.
    """

    def __init__(self, masks, kept, examples, updates):
        self._examples, self._updates = examples, updates
        self._groups = masks.channel_groups
        self.kept = [np.asarray(keras.ops.convert_to_numpy(one)) for one in kept]
        slots = collections.defaultdict(list)
        for i, group in enumerate(self._groups):
            for slot in group.slots:
                if slot.takes and slot.use.variable is not None and not self.kept[i].all():
                    slots[id(slot.use.variable)].append((i, slot))
        self._linear = collections.defaultdict(list)
        for weight in masks.weights:
            linear = linear_of(weight) if id(weight.variable) in slots else None
            if linear is not None:
                self._linear[id(linear.layer)].append((weight, linear))
        self._slots, self._consumers = slots, collections.defaultdict(list)
        self._waiting = collections.Counter(
            i
            for found in self._linear.values()
            for weight, _ in found
            for i, _ in slots[id(weight.variable)]
        )

    @property
    def layers(self):
        """The layers to visit, a list."""
        return [found[0][1].layer for found in self._linear.values()]

    def visit(self, layer, run):
        """See what a layer takes in; `run` as of `stages`."""
        found = self._linear[id(layer)]
        for (weight, linear), moment in zip(found, moments_of(found, run, self._examples)):
            slots = self._slots[id(weight.variable)]
            if moment is not None:
                _, bias, problem = problem_of(weight, linear, moment)
                if not problem.is_empty:
                    for i, slot in slots:
                        index = _index(slot, weight, linear, moment, bias is not None)
                        channels = self._groups[i].channels
                        self._consumers[i].append(Consumer(problem, index, channels, self._updates))
            for i, _ in slots:
                self._waiting[i] -= 1
                if not self._waiting[i]:
                    self._choose(i)

    def finish(self):
        """Choose among channels of which not every layer was called."""
        for i in list(self._consumers):
            self._choose(i)

    def _choose(self, i):
        consumers = self._consumers.pop(i, [])
        if consumers:
            count = int(np.count_nonzero(~self.kept[i]))
            self.kept[i] = eliminate(consumers, len(self.kept[i]), count)


def _index(slot, weight, linear, moment, has_bias):
    """The channel of each row of a weight's matrices, [groups, d]; -1 for others."""
    shape = [1] * len(weight.variable.shape)
    shape[slot.axis] = -1
    # A convolution's matrices are of its own layout, so they are made of a whole array.
    index = np.broadcast_to(slot.index.reshape(shape), weight.variable.shape)
    index = moment.blocks(linear.matrix(np.ascontiguousarray(index)), fill=-1)[..., 0]
    return np.pad(index, [(0, 0), (0, int(has_bias))], constant_values=-1)
