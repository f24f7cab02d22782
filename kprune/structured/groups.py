"""Groups: channels that live in the same axes of the same variables, one like the other."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.report import tables
from kprune.report.tables import Printable
from kprune.structured.call import Use
from kprune.structured.costs import Cost
from kprune.structured.labels import FIXED
from kprune.structured.reasons import OutOfReach


@dataclasses.dataclass(eq=False)
class Slot:
    """The positions that a group's channels have along one axis of one variable.

    Attributes:
        layer: the `keras.Layer`.
        name: str, its name, after those of the custom layers that it is in.
        use: the `Use` of the variable.
        axis: int >= 0.
        index: int array, for each position of the axis the channel of the group, from 0;
            -1 for positions of others.
        makes: whether the layer makes the channels here.
        takes: whether it takes them in here, and sums over them.
    """

    layer: keras.Layer
    name: str
    use: Use
    axis: int
    index: np.ndarray
    makes: bool
    takes: bool


@dataclasses.dataclass(eq=False)
class ChannelGroup:
    """Channels of a model that are alike: they live in the same axes of the same variables.

    A channel is whatever must be removed together: a filter of a convolution with its
    bias, its place in the batch normalization, and its slice of the next kernel; across
    a residual addition, those of all layers that are added up.

    Attributes:
        name: the first layer that makes the channels.
        channels: int, how many there are.
        roots: int array [channels], what names each of them in the `ChannelGraph`.
        slots: list of `Slot`s.
        width: int, how many of a layer's units or filters one channel stands for: 1, or
            more where they are tied to each other, as by grouped convolutions.
        frozen: list of str, why none of them can be removed; empty if they can.
        inexact: list of str, why the model without them does not compute what the model
            with zeros in their place computes.
        counted: False for attention heads, whose number no runtime wants rounded.
        parameters: int, weights that leave with one channel of the whole model.
        flops: int, FLOPs that leave with it.
    """

    name: str
    channels: int
    roots: np.ndarray
    slots: list
    width: int
    frozen: list
    inexact: list
    counted: bool
    parameters: int = 0
    flops: int = 0

    @property
    def producers(self) -> list[str]:
        """Names of the layers that make the channels."""
        return list(dict.fromkeys(s.name for s in self.slots if s.makes))

    @property
    def consumers(self) -> list[str]:
        """Names of the layers that multiply them with weights."""
        inside = [s.name for s in self.slots if s.use.applications and not s.makes]
        return [name for name in dict.fromkeys(inside) if name not in self.producers]

    def to_dict(self) -> dict[str, Any]:
        """Return what it is as plain data."""
        return {
            "name": self.name,
            "channels": self.channels,
            "producers": self.producers,
            "consumers": self.consumers,
            "parameters": self.parameters,
            "flops": self.flops,
            "frozen": list(self.frozen),
            "inexact": list(self.inexact),
        }


def find_groups(graph):
    """Return the `ChannelGroup`s of a `ChannelGraph`, in the order of their first layer."""
    slots = [
        (record, use, axis, graph.labels.find(labels))
        for record in graph.layers.values()
        for use in record.uses.values()
        for axis, labels in use.axes.items()
    ]
    places = _counts([roots for _, _, _, roots in slots])
    tensors = _counts(
        [graph.labels.find(t.labels) for t in graph.tensors.values() if t.axis is not None]
    )
    made = [labels for record in graph.layers.values() for labels in record.made.values()]
    widths = _counts([graph.labels.find(labels) for labels in made])
    frozen, inexact = graph.labels.frozen(), graph.labels.inexact()
    uncounted = graph.labels.uncounted()
    alike = collections.defaultdict(list)
    for root, where in places.items():
        reasons = (tuple(frozen.get(root, ())), tuple(inexact.get(root, ())))
        # Both halves of a split are channels that are made alike, but each must keep one.
        alike[where, tensors.get(root), reasons, root not in uncounted].append(root)
    groups = [
        _group(np.array(sorted(roots)), where, reasons, counted, slots, widths.get(roots[0], ()))
        for (where, _, reasons, counted), roots in alike.items()
    ]
    groups.sort(key=lambda group: group.roots[0])
    _count_costs(groups)
    return groups


def _counts(arrays):
    """From each label in some arrays to a tuple of `(number of the array, how often)`."""
    labels = np.concatenate([np.zeros(0, int), *arrays])
    sources = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    labels, sources = labels[labels != FIXED], sources[labels != FIXED]
    both, counts = np.unique(labels * len(arrays) + sources, return_counts=True)
    labels, sources = np.divmod(both, len(arrays) or 1)
    roots, starts = np.unique(labels, return_index=True)
    ends = [*starts[1:].tolist(), len(labels)]
    # Few of these tuples differ: as bytes they are compared without being made.
    pairs = np.stack([sources, counts], axis=1).astype("int64")
    size, data, made = pairs[:1].nbytes or 16, pairs.tobytes(), {}
    found = {}
    for root, start, end in zip(roots.tolist(), starts.tolist(), ends):
        key = data[start * size : end * size]
        if key not in made:
            made[key] = tuple(map(tuple, pairs[start:end].tolist()))
        found[root] = made[key]
    return found


def _group(roots, where, reasons, counted, slots, widths):
    made = []
    for i, _ in where:
        record, use, axis, found = slots[i]
        index = np.searchsorted(roots, found)
        index = np.where(np.isin(found, roots), index, -1)
        makes, takes = axis in use.makes, axis in use.takes
        made.append(Slot(record.layer, record.name, use, axis, index, makes, takes))
    makers = [slot.name for slot in made if slot.makes] or [made[0].name]
    frozen, inexact = map(list, reasons)
    if len(roots) < 2 and not frozen:
        frozen = ["only one channel"]
    width = min((count for _, count in widths), default=1)
    return ChannelGroup(makers[0], len(roots), roots, made, width, frozen, inexact, counted)


def open_groups(groups, model, weights, reason="left out by `layers`"):
    """Freeze the groups that no chosen layer makes; raise if none is left that can lose any.

    Args:
        groups: list of all `ChannelGroup`s of a model.
        model: the model.
        weights: list of `selection.Weight`s; any that makes the channels of a group, as of a
            residual sum, chooses the group.
        reason: str, why the others are left out.
    """
    chosen = {id(weight.variable) for weight in weights}
    inside = []
    for group in groups:
        makers = [slot.use.variable for slot in group.slots if slot.makes]
        if any(id(variable) in chosen for variable in makers):
            inside.append(group)
        elif not group.frozen:
            group.frozen.append(reason)
    if all(group.frozen for group in groups):
        left_out = any(reason in group.frozen for group in groups)
        named = inside if left_out else groups
        reasons = [f"{group.name}: {group.frozen[0]}" for group in named]
        nothing = "none of the chosen layers makes any" if left_out else "no layer makes any"
        raise OutOfReach(
            f"No channel of {model.name!r} can be removed"
            + (" among those that `layers` and `trainable` leave: " if left_out else ": ")
            + ("; ".join(reasons[:10]) or nothing)
            + ("; ..." if len(reasons) > 10 else ".")
            + " See kprune.channel_groups(model)."
        )


def keep_groups(groups, heads, hidden):
    """Freeze attention heads, or the channels that norms go over, unless they may go."""
    for group in groups:
        if not heads and not group.counted and not group.frozen:
            group.frozen.append("heads=False")
        if not hidden and group.inexact and not group.frozen:
            group.frozen.append(f"{group.inexact[0]}; hidden=True lets them go all the same")


def _count_costs(groups):
    cost = Cost(groups)
    everything = np.array([group.channels for group in groups])
    weights, products = cost(everything)
    for i, group in enumerate(groups):
        fewer = everything.copy()
        fewer[i] -= 1
        less = cost(fewer)
        group.parameters = round(weights - less[0])
        group.flops = round(products - less[1])


@dataclasses.dataclass(repr=False)
class ChannelReport(Printable):
    """The channel groups of a model; prints as a table.

    Attributes:
        model: the model's name.
        groups: list of `ChannelGroup`s.
        untouched: list of `(layer name, class name, reason)`, the layers with weights whose
            own channels are in no group, because there is no rule for them.
        opened: list of `(layer name, class name, reason)`, the custom layers that were looked
            into; with fewer channels they become the Keras layers that are inside, or, where
            an argument says the new number or there is a reason, stay of their class.
    """

    model: str
    groups: list
    untouched: list = dataclasses.field(default_factory=list)
    opened: list = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.model,
            "groups": [group.to_dict() for group in self.groups],
            "untouched": [
                {"layer": name, "class": kind, "reason": reason}
                for name, kind, reason in self.untouched
            ],
            "opened": [
                {"layer": name, "class": kind, "stays": reason}
                for name, kind, reason in self.opened
            ],
        }

    def __rich__(self):
        free = [group for group in self.groups if not group.frozen]
        rows = [
            (
                tables.listed(group.producers) or group.name,
                tables.listed(group.consumers),
                tables.count(group.channels),
                tables.count(group.parameters),
                tables.scaled(group.flops),
                _remark(group),
            )
            for group in self.groups
        ]
        return tables.table(
            ["made by", "taken by", ">channels", ">weights each", ">FLOPs each", "can go"],
            rows,
            title=f"Channels of {self.model}: {len(free)} of {len(self.groups)} groups can go",
            notes=[
                "Weights and FLOPs that leave with one channel of the whole model.",
                *(
                    f"{name} ({kind}) keeps its own channels: {reason}."
                    for name, kind, reason in self.untouched
                ),
                *_of_opened(self.opened),
            ],
        )


def _of_opened(opened):
    """What happens to custom layers, a line for each class and reason."""
    alike = {}
    for name, kind, reason in opened:
        alike.setdefault((kind, reason), []).append(name)
    for (kind, reason), names in alike.items():
        becomes = (
            "of the same class, if an argument says their number, or the layers inside"
            if reason is None
            else f"of the same class: {reason}"
        )
        yield f"{tables.listed(names)} ({kind}), with fewer channels: {becomes}."


def _remark(group):
    if group.frozen:
        return "no: " + tables.listed(group.frozen, 2, "; ")
    return "yes, not exactly: " + tables.listed(group.inexact, 2, "; ") if group.inexact else "yes"
