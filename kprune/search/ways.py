"""What can be done for a model on a target, and why the rest cannot."""

import keras

from kprune.graphs.flops import flops as count_flops
from kprune.search.latency.timers import TIMED
from kprune.search.plan import Ways
from kprune.structured import channel_groups, find_blocks
from kprune.structured.budget import Sizes
from kprune.targets import for_target, prepare
from kprune.targets.channels import ROUND_TO
from kprune.targets.prepare import changes_for

_TYPICAL = 0.85  # The sparsity at which a target is asked what it would be faster with.
# The best first. Without data to calibrate by only weights can be rounded.
_QUANTIZE = {"tflite": ("int8", "dynamic"), "onnx": ("int8", "dynamic")}
_CALIBRATED = ("int8",)


def ways_for(model, target, goal, trains, examples, stopwatch, judge):
    """Return `(Ways, notes)`.

    Args:
        model: a built `keras.Model`.
        target: a `Target`.
        goal: a `Goal`.
        trains: bool, whether there is a `fit`.
        examples: `Examples` to calibrate by, or None.
        stopwatch: a `Stopwatch`.
        judge: a `Judge` that has judged the dense file.
    """
    notes = []
    prepared, share, channels = False, 0.0, False
    if goal.size is None and not target.rules:
        notes.append(f"zeros were not tried: {target.name} has no use for them")
    elif goal.size is None:
        prepared, share = _sparse(model, target, notes)
    if goal.size is None:
        channels = _channels(model, notes)
    own, runs = target.own_quantize, target.quantize
    kinds = tuple(kind for kind in _QUANTIZE[target.format] if runs is None or kind in runs)
    if own is not None:
        kinds = ()
        notes.append(f"all files are {own}, the dense one as well: {target.name} runs no others")
    elif judge.judged == "model":
        kinds = ()
        notes.append(
            "the metric is the Keras model's, as `evaluate` would not take the file "
            f"({judge.reason}); so 8 bits were not tried, of which it knows nothing"
        )
    elif goal.size is None and not stopwatch.measures:
        kinds = ()
        notes.append(f"8 bits were not tried: what they gain on {target.name} is not known here")
    elif examples is None:
        kinds = tuple(kind for kind in kinds if kind not in _CALIBRATED)
        notes.append("int8 was not tried: it needs `data`, some hundred examples to calibrate by")
    clusters = target.format == "tflite" and own is None
    by_latency = goal.latency is not None and trains and stopwatch.measures
    by_latency = by_latency and target.runtime in TIMED
    ways = Ways(
        sparse=share > 0,
        mostly_sparse=share >= 0.5,
        prepared=prepared,
        channels=channels,
        by_latency=by_latency,
        depth=channels and trains and not by_latency and _depth(model, examples),
        quantize=kinds,
        trains=trains,
        clusters=clusters,
    )
    return ways, notes


def _sparse(model, target, notes):
    """(whether to prepare the model, what share of it zeros make faster then)."""
    try:
        prepared = bool(changes_for(model, target))
        changed = prepare(model, target)[0] if prepared else model
        chosen = for_target(changed, target, _TYPICAL)
    except ValueError as error:
        why = str(error).partition(" Take channels instead")[0]  # They are tried as well.
        notes.append(f"zeros were not tried: {why}")
        return False, 0.0
    counted = count_flops(changed)
    faster = sum(layer.flops for layer in counted if layer.name in chosen)
    return prepared, max(faster / (counted.total or 1), 1e-9)


def _channels(model: keras.Model, notes: list[str]) -> bool:
    try:
        groups = list(channel_groups(model))
    except ValueError as error:
        notes.append(f"fewer channels were not tried: {error}")
        return False
    if any(len(Sizes(group, ROUND_TO, None).allowed) > 1 for group in groups):
        return True
    notes.append("fewer channels were not tried: none can go (see kprune.channel_groups)")
    return False


def _depth(model, examples):
    """Whether whole blocks can leave, and there is what to judge them by before any training."""
    if examples is None or examples.labels is None or not (model.compiled and model.loss):
        return False
    try:
        return bool(list(find_blocks(model)))
    except ValueError:
        return False
