"""The budget in latency: measured by the room of search, which lies above this one."""

from collections.abc import Callable
from typing import Any

NEAR = 0.05  # How far from the budget, as a share of it, the measured whole may be.
AIM = 0.03  # What is near enough not to try again: whole files are timed with noise.
_SETTLINGS = 5
_AGREE = 0.01

_registered: dict[str, Callable] = {}


def register(check: Callable, start: Callable) -> None:
    """Let `prune_channels` know latency.

    Args:
        check: function from `(target, threads, measured, latency_model)`; raises where the latency
            cannot be measured.
        start: function from the same, the model, its `ChannelGraph` and its groups to an object
            with `estimate(kept)` and `measure(kept)`, the seconds with `kept[g]` channels in the
            g-th group; `share_of(small, kept)`, of a smaller model's file beside the whole one's,
            or None; `whole`, the seconds of the model as it is; `floor`, the share of these that
            an empty file takes; and `block`, the channels that are computed at once.
    """
    _registered.update(check=check, start=start)


def check_latency(share: Any, **options: Any) -> None:
    """Raise `ValueError` for options of latency without it, or for latency without a target."""
    given = {name: value for name, value in options.items() if value is not None}
    if share is None:
        if given:
            raise ValueError(
                "`target`, `threads`, `measured` and `latency_model` belong to a budget in "
                f"`latency`. Received: latency=None, {', '.join(given)}"
            )
        return
    if "target" not in given and "latency_model" not in given:
        raise ValueError(
            "`latency` is measured in the runtime of a `target`, such as "
            f"target='litert-x86' or target='onnxruntime'. Received: latency={share!r}, target=None"
        )
    _registered["check"](**options)


def start(model: Any, graph: Any, groups: list, **options: Any) -> Any:
    """Return what measures the latency of a model's cuts: see `register`."""
    return _registered["start"](model, graph, groups, **options)


def widest_rounding(budget: Any, kept_with: Callable, share: float) -> int:
    """Return the block, or half, a quarter ... of it: the first with which the budget is met.

    Where none of them meets it, the one that came nearest.

    Args:
        budget: what `start` returned.
        kept_with: function from what numbers of channels are multiples of to those that are
            nearest to the budget.
        share: float, of the latency of the whole model.
    """
    block, away = int(budget.block), {}
    while block:
        away[block] = abs(budget.measure(kept_with(block)) / budget.whole - share)
        if away[block] <= AIM * share:
            break
        block //= 2
    return min(away, key=away.__getitem__)  # Of equals the first, which is the largest.


def settled(fit: Callable, budget: Any) -> Callable:
    """Return `fit`, a function to numbers of channels, measured where it ends.

    Costs between what was measured are estimates: where it ends up, operators are measured, and
    it is called again, until both agree.
    """

    def measured(*args):
        for _ in range(_SETTLINGS):
            kept = fit(*args)
            expected = budget.estimate(kept)
            if abs(budget.measure(kept) - expected) <= _AGREE * expected:
                break
        return kept

    return measured
