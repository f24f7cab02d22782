"""Whole channels as a pattern: masked in `fit`, removed by `shrink`."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kprune._keras import backend
from kprune._system.type_aliases import Axes, Tensor
from kprune.graphs.functional import functional_form
from kprune.graphs.weights import INPUT_OUTPUT, weights_of
from kprune.pruning.allocation import Global, Uniform
from kprune.pruning.criteria import Magnitude
from kprune.pruning.exact_count import lowest_pruned
from kprune.pruning.groups import Group, scored
from kprune.pruning.patterns import Pattern
from kprune.structured.budget import Sizes, check_counts
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups, open_groups
from kprune.structured.importance import channel_scores, channel_sums


@keras.saving.register_keras_serializable(package="kprune")
class Channels(Pattern):
    """Whole channels are zero, in every variable that they live in.

    A sparsity is the share of channels that go. They are zeroed together wherever they
    are made and wherever they are taken in: the slices of the kernels, biases, gammas and
    betas. `kprune.shrink(model)` then removes them, and computes the same. Channels that
    a LayerNormalization goes over are left alone, since its mean would be another one.

    The scores of a channel's weights are added up to the channel's score, as
    `kprune.prune_channels` does. With `Uniform()` every group of channels loses the same
    share, with `Global()` all channels of the model are ranked together.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.5, pattern=kprune.Channels())])
    small = kprune.shrink(model)
    ```

    Args:
        round_to: int >= 1, what the numbers of channels left are multiples of. Runtimes
            compute in vectors, and like 8; sparsities are then as near as that allows.
        min_channels: int >= 1, the fewest that any group keeps.
    """

    def __init__(self, round_to: int = 1, min_channels: int = 1) -> None:
        check_counts(round_to=round_to, min_channels=min_channels)
        self.round_to, self.min_channels = int(round_to), int(min_channels)

    def get_config(self) -> dict[str, Any]:
        return {"round_to": self.round_to, "min_channels": self.min_channels}

    def units(self, scores: Tensor, axes: Axes = INPUT_OUTPUT) -> Tensor:
        raise ValueError(_NEEDS_MODEL)

    def groups(
        self, group: Any, model: keras.Model | None, before: Sequence[Any] = ()
    ) -> list[Any]:
        """Return one `ChannelMasks` for the channels that the group's layers make.

        Channels that several layers make, as of a residual sum, belong to the first setting
        that names one of these layers.
        """
        if model is None:
            raise ValueError(_NEEDS_MODEL)
        if not isinstance(group.setting.allocation, Uniform | Global):
            raise ValueError(
                "Channels are shared out by Uniform() or Global(). "
                f"Received: allocation={group.setting.allocation!r}"
            )
        graph = ChannelGraph(functional_form(model))
        found = find_groups(graph)
        for one in found:
            one.frozen.extend(one.inexact)
        open_groups(found, model, group.weights, "left out by `layers`, or not trainable")
        taken = {one.roots[0] for part in before for one in getattr(part, "channel_groups", ())}
        found = [one for one in found if not one.frozen and one.roots[0] not in taken]
        if not found:
            return []
        self._warn_of_floor(found, group.setting)
        used = {id(slot.use.variable) for g in found for slot in g.slots}
        living = [w for w in weights_of(model) if id(w.variable) in used]
        weights = tuple(w for w in living if w.variable.trainable)
        return [ChannelMasks(group.setting, weights, tuple(found))]

    def _warn_of_floor(self, groups, setting):
        """Say which groups keep more than was asked for, as some channel must stay."""
        if setting.final_sparsity is None:
            return
        fewest = [Sizes(one, self.round_to, self.min_channels).smallest for one in groups]
        wanted = [one.channels * (1 - setting.final_sparsity) for one in groups]
        if isinstance(setting.allocation, Global):
            fewest, wanted = [sum(fewest)], [sum(wanted)]
            names = ["all groups together"]
        else:
            names = [one.name for one in groups]
        held = [
            f"{name} ({least} channel{'s' * (least > 1)})"
            for name, least, want in zip(names, fewest, wanted)
            if least - want > 0.5  # Not by rounding alone.
        ]
        if held:
            warnings.warn(
                f"A sparsity of {setting.final_sparsity:g} would leave fewer channels than "
                f"`min_channels` and `round_to` allow, so more stay: {', '.join(held[:10])}"
                + (", ..." if len(held) > 10 else ".")
                + " Ask these layers for less with `layers`, or expect this.",
                stacklevel=2,
            )


_NEEDS_MODEL = (
    "Channels() must know how the model's layers are connected: use it in kprune.Pruning, or pass "
    "`model=` to PruningOptimizer."
)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMasks(Group):
    """The weights of some channel groups, masked channel by channel."""

    unit = "channels"

    channel_groups: tuple = ()

    def masks(self, values, sparsity, gradients=None, scores=None, accumulated=None):
        """Return the mask of each weight at a sparsity; see `Group.masks`."""
        return self.spread(self.kept(values, sparsity, gradients, scores, accumulated))

    def kept(self, values, sparsity, gradients=None, scores=None, accumulated=None):
        """Return which channels of each of the channel groups stay, bool tensors [channels].

        Args as of `Group.masks`.
        """
        criterion = scores or self.setting.criterion
        given = scored(values, gradients, accumulated)
        of = {id(weight.variable): each for weight, each in zip(self.weights, given)}
        known = {}

        def scores_of(variable):
            # A layer that is not trained has no say: its values are not in the step.
            if id(variable) not in known and id(variable) in of:
                known[id(variable)] = criterion(*of[id(variable)])
            return known.get(id(variable))

        ranked = [channel_scores(g, criterion, scores_of) for g in self.channel_groups]
        return [
            lowest_pruned([score], count)[0]
            for score, count in zip(ranked, self._counts(ranked, sparsity))
        ]

    def _factors(self, values, amount):
        """What each weight is multiplied by: wherever a channel is made, scaled or shifted."""
        value_of = {id(weight.variable): value for weight, value in zip(self.weights, values)}
        factors = []
        for group in self.channel_groups:
            squares, entries = ops.zeros((group.channels,)), ops.zeros((group.channels,))
            for slot in _made_in(group):
                value = value_of.get(id(slot.use.variable))
                if value is not None:
                    value = ops.cast(value, "float32")
                    squares = squares + channel_sums(slot, ops.square(value), group.channels)
                    entries = entries + channel_sums(slot, ops.ones_like(value), group.channels)
            sizes = ops.sqrt(squares / ops.maximum(entries, 1.0))
            factors.append(self.setting.penalty.of_units(sizes, amount))
        return self.spread(factors, 1.0, ops.multiply, _made_in)

    def _counts(self, ranked, sparsity):
        """How many channels each group loses."""
        total = sum(group.channels for group in self.channel_groups)
        if isinstance(self.setting.allocation, Global):
            count = ops.cast(ops.round(sparsity * total), "int32")
            wanted = [
                ops.cast(group.channels - backend.count_true(mask), "float32")
                for group, mask in zip(self.channel_groups, lowest_pruned(ranked, count))
            ]
        else:
            wanted = [sparsity * group.channels for group in self.channel_groups]
        return [self._rounded(group, count) for group, count in zip(self.channel_groups, wanted)]

    def _rounded(self, group, gone):
        """The number of channels to lose that is nearest to `gone` and allowed."""
        pattern = self.setting.pattern
        kept = Sizes(group, pattern.round_to, pattern.min_channels).allowed
        allowed = ops.convert_to_tensor(group.channels - kept[::-1], "int32")
        distance = ops.abs(allowed - ops.cast(ops.round(gone), "int32"))
        return ops.take(allowed, ops.argmin(distance))

    def spread(self, of_channels, others=True, join=ops.logical_and, places=None):
        """Return a tensor of each weight's shape, from a value for each channel of each group.

        Args:
            of_channels: list of tensors [channels], for each group.
            others: what stands for positions of other channels.
            join: function of two tensors, for positions that are of channels along two axes.
            places: function from a group to its slots that matter; all by default.
        """
        found = {id(weight.variable): others for weight in self.weights}
        for group, values in zip(self.channel_groups, of_channels):
            # Positions of other channels have the index -1.
            padded = ops.concatenate([values, ops.full((1,), others, values.dtype)])
            for slot in group.slots if places is None else places(group):
                key = id(slot.use.variable)
                if key in found:
                    shape = [1] * len(slot.use.variable.shape)
                    shape[slot.axis] = -1
                    index = ops.convert_to_tensor(slot.index % (group.channels + 1), "int32")
                    found[key] = join(found[key], ops.reshape(ops.take(padded, index), shape))
        return [
            ops.broadcast_to(found[id(weight.variable)], weight.variable.shape)
            for weight in self.weights
        ]

    def _alive(self):
        """Which channels of each group are made by weights, of those masked, not all zero."""
        trained = {id(weight.variable) for weight in self.weights}
        alive = []
        for group in self.channel_groups:
            nonzero = ops.zeros((group.channels,))
            for slot in group.slots:
                if slot.makes and id(slot.use.variable) in trained:
                    value = ops.cast(backend.read(slot.use.variable) != 0, "float32")
                    nonzero = nonzero + channel_sums(slot, value, group.channels)
            alive.append(nonzero > 0)
        return alive

    def count(self):
        """Return `(channels that are zero now, all)`."""
        total = sum(group.channels for group in self.channel_groups)
        return total - sum(int(backend.count_true(one)) for one in self._alive()), total

    def held(self):
        """Return the masks that keep the channels that are zero now; see `Group.held`."""
        alive = self._alive()
        return self.spread([ops.logical_or(one, ops.logical_not(ops.any(one))) for one in alive])

    def held_share(self):
        """Return the share of channels that is zero now and would be held."""
        if not backend.is_concrete():
            return 0.0
        pruned, total = self.count()
        return pruned / total if pruned < total else 0.0

    @property
    def slack(self):
        """By how many channels the zeros of a sparsity may differ from what is asked."""
        rounds = isinstance(self.setting.allocation, Global)
        return len(self.channel_groups) * self.setting.pattern.round_to if rounds else 0

    def missing(self, sparsity):
        """Return how many channels are not zero now that are to be at a sparsity, at least 0."""
        return max(self.lacking(sparsity) - self.slack, 0)

    def lacking(self, sparsity):
        """Return how many more channels are to be zero at a sparsity than are now."""
        gone, total = self.count()
        if isinstance(self.setting.allocation, Global):
            return round(sparsity * total) - gone
        asked = (self._rounded(one, sparsity * one.channels) for one in self.channel_groups)
        return sum(int(count) for count in asked) - gone

    def floored(self, sparsity):
        """Return nothing: `min_channels` says how many channels stay."""
        return []

    def only(self, variables):
        """Return the masks of the channels that live in `variables` only; None if none do."""
        known = {id(variable) for variable in variables}
        trained = {id(weight.variable) for weight in self.weights}
        found = tuple(
            group
            for group in self.channel_groups
            if all(
                id(slot.use.variable) in known or id(slot.use.variable) not in trained
                for slot in group.slots
            )
        )
        used = {id(slot.use.variable) for group in found for slot in group.slots}
        weights = tuple(w for w in self.weights if id(w.variable) in used)
        if not weights:
            return None
        return dataclasses.replace(self, weights=weights, channel_groups=found)

    def restored(self, sparsity):
        """Return the masks of the zeros there are, or new ones if they do not fit a sparsity."""
        if sparsity > 0 and self.fits(sparsity):
            return self.spread(self._alive())
        values = [backend.read(weight.variable) for weight in self.weights]
        return self.masks(values, sparsity, scores=Magnitude())


def _made_in(group):
    """The slots where a group's channels are made, scaled or shifted; not those that take them."""
    return [slot for slot in group.slots if slot.use.variable is not None and not slot.takes]
