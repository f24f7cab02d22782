"""The channels that `for_target` takes where a target has no sparse kernel."""

from kprune.graphs.functional import functional_form
from kprune.graphs.weights import weights_of
from kprune.structured.budget import Sizes
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups

ROUND_TO = 8  # runtimes compute in vectors


def judge_channels(model, share, chosen, input_shape=None):
    """Say of each layer that makes channels whether it can lose some.

    A group of channels that reaches into a layer chosen for another pattern stays: its zeros
    there would come on top of the sparsity asked for, and blocks of inputs would no longer line
    up once some inputs are gone.

    Args:
        model: a built functional or Sequential model.
        share: float in [0, 1), the share of channels that go.
        chosen: names of the layers that are pruned in another pattern.
        input_shape: the sizes to follow channels at, as in `ChannelGraph`.

    Returns:
        {layer name: None, or why its channels stay}.
    """
    prunable = {id(w.variable) for w in weights_of(model) if w.reason is None}
    found = {}
    for group in find_groups(ChannelGraph(functional_form(model), input_shape=input_shape)):
        makers = [s for s in group.slots if s.makes and id(s.use.variable) in prunable]
        verdict = _conflict(group, chosen) or _hindrance(group, share)
        for name in dict.fromkeys(slot.layer.name for slot in makers):
            found.setdefault(name, []).append(verdict)
    return {name: _joined(verdicts) for name, verdicts in found.items()}


def _conflict(group, chosen):
    """(True, why) if a group that could go reaches into a layer with another pattern."""
    names = [slot.layer.name for slot in group.slots if slot.layer.name in chosen]
    if group.frozen or group.inexact or not names:
        return None
    return True, f"its channels are those of '{names[0]}', which has another pattern"


def _hindrance(group, share):
    """(False, why) if a group loses nothing; None if it does."""
    stays = [*group.frozen, *group.inexact]
    if stays:
        return False, f"its channels stay: {stays[0]}"
    n = group.channels
    if Sizes(group, ROUND_TO, 1).nearest(n * (1 - share)) == n:
        return False, f"of its {n} channels a multiple of {ROUND_TO} stays: all of them"
    return None


def _joined(verdicts):
    """Why a layer is not to be named, of what was said of all groups that it makes; or None.

    Naming it opens all of them, so that one in conflict forbids it, and one that goes suffices.
    """
    forbidden = [why for verdict in verdicts if verdict for conflict, why in [verdict] if conflict]
    if forbidden or all(verdicts):
        return (forbidden or [why for _, why in verdicts])[0]
    return None
