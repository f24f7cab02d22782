"""`for_target`: which layers to prune, and in which pattern, so that a target is faster."""

import warnings
from typing import Any

import keras

from kprune._keras.layers import flatten_layers
from kprune._system.type_aliases import InputShape
from kprune.formats.tflite.sparsity import BLOCK
from kprune.graphs.replace import replace_layers
from kprune.graphs.sizes import known_sizes
from kprune.graphs.walk import graph_of
from kprune.graphs.weights import check_model, weights_of
from kprune.pruning.patterns import Block, Unstructured
from kprune.pruning.schedules import check_sparsity
from kprune.report import tables
from kprune.structured.channels import Channels
from kprune.targets import compressed, xnnpack
from kprune.targets.channels import ROUND_TO, judge_channels
from kprune.targets.from_keras import read
from kprune.targets.prepare import changes_for
from kprune.targets.rewrites import rewrite
from kprune.targets.target import NEEDED_PERCENT, Target, get_target
from kprune.training.target_layers import register
from kprune.training.wrappers.prune_low_magnitude import PruningPolicy
from kprune.training.wrappers.pruning_wrapper import PruneLowMagnitude


class TargetLayers(dict):
    """What `for_target` chose: `Pruning`'s `layers`. Prints as a table, with the reasons.

    Attributes:
        target: the target's name.
        reasons: {layer name: why it was chosen or left out}, in order.
        channels: names of the layers that lose channels, for `kprune.shrink`.
    """

    def __init__(self, chosen: dict[Any, Any], target: str, reasons: dict[str, str]) -> None:
        super().__init__(chosen)
        self.target, self.reasons = target, reasons

    @property
    def channels(self) -> list[str]:
        return [name for name, one in self.items() if isinstance(one["pattern"], Channels)]

    def __str__(self):
        return tables.as_text(self)

    __repr__ = __str__

    def __rich__(self):
        rows = []
        for name, reason in self.reasons.items():
            setting = self.get(name)
            pattern = "left dense" if setting is None else str(setting["pattern"])
            share = tables.MISSING if setting is None else tables.percent(setting["sparsity"])
            rows.append((name, pattern, share, reason))
        return tables.table(
            ["layer", "pattern", ">sparsity", "why"],
            rows,
            title=f"Pruning for {self.target}",
            notes=[_SHRINK] if self.channels else [],
        )


_SHRINK = (
    "Sparsity of Channels: the share of channels that are zero after `fit`; "
    "kprune.shrink(model, layers=layers.channels) takes them out."
)


def for_target(
    model: keras.Model,
    target: Target | str,
    sparsity: float = 0.85,
    channels: float | None = None,
    input_shape: InputShape | None = None,
) -> TargetLayers:
    """Choose the layers and patterns with which pruning makes a model faster on a target.

    Unstructured zeros in the 1x1 convolutions that XNNPACK's sparse path takes (with the rewrites
    of `export_tflite`), blocks of (4, 1) in dense layers where they are faster at this sparsity.
    All else is left dense, where zeros would only cost accuracy; or it loses whole `channels`
    (`Channels(round_to=8)`), which is faster everywhere. Channels that reach into a layer with
    zeros of another pattern stay.

    On an Ethos-U, which stores weights compressed, zeros save flash in every kernel, and time where
    reading the weights bounds a layer: unstructured ones, or on U85 at most 2 of every 4, 8, 12 …
    inputs (`NM`), which also take half the multiply-adds. With `channels`, layers that are no
    faster with zeros lose channels instead.

    Example:

    ```python
    layers = kprune.for_target(model, "litert-arm64", sparsity=0.85, channels=0.5)
    print(layers)  # why each layer was chosen or left out
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(layers=layers)])
    model = kprune.shrink(kprune.strip_pruning(model), layers=layers.channels)
    kprune.export_tflite(model, "model.tflite", target="litert-arm64")
    ```

    Args:
        model: a built functional or Sequential Keras model.
        target: as in `check`.
        sparsity: float in [0, 1), the share of zeros in each layer with a sparse kernel.
        channels: float in [0, 1), the share of channels that go where there is none; by default
            those layers are left as they are.
        input_shape: as in `check`.

    Returns:
        A `TargetLayers`: {layer name: {"sparsity": ..., "pattern": ...}}.

    Raises:
        ValueError: an unknown target; a subclassed model; sizes that do not fit the model;
            nothing in it would be faster.
    """
    target, sparsity = get_target(target), check_sparsity(sparsity)
    share = None if channels is None else check_sparsity(channels, "channels")
    if graph_of(model) is None:
        raise ValueError(
            f"The model '{model.name}' is subclassed, so its graph of layers is not known: choose "
            "`layers` of kprune.Pruning yourself."
        )
    sizes = known_sizes(model, input_shape)
    ops = read(model, input_shape=sizes).ops
    if target.compressed:
        chosen, reasons = compressed.choose(ops, target, sparsity, share is not None)
        chosen = {name: how for name, how in chosen.items() if _prunable(model, name)}
    else:
        fast = _fast_convolutions(model, target, sparsity, sizes)
        chosen, reasons = _sparse_kernels(model, ops, target, sparsity, fast)
    if share is not None:
        verdicts = judge_channels(model, share, chosen, sizes)
        chosen, reasons = _with_channels(ops, share, verdicts, chosen, reasons)
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:5])
        advice = " Take channels instead: channels=0.5." if share is None else ""
        raise ValueError(
            f"Nothing in '{model.name}' would be faster on {target.name} with {sparsity:.0%} "
            f"zeros. {why}.{advice}"
        )
    return TargetLayers(chosen, target.name, reasons)


def _target_of_pruning(target):
    """Return a target that has a use for zeros."""
    target = get_target(target)
    if not target.rules:
        raise ValueError(
            f"{target.name} has no use for zeros: only fewer channels make it faster. Use "
            "kprune.Pruning(0.5, pattern=kprune.Channels(round_to=8)) and kprune.shrink(model) "
            "after it, or kprune.prune_channels(model, flops=0.5)"
            + (f"; {target.otherwise}. " if target.otherwise else ". ")
            + f"Received: target={target.name!r}"
        )
    return target


def _layers_of_pruning(model, target, sparsity):
    """Return `layers` of `Pruning(sparsity, target=...)`; warn of what `prepare` would add."""
    found = for_target(model, target, sparsity)
    changes = changes_for(model, target)
    if changes:
        names = tables.listed([change.layer for change in changes])
        warnings.warn(
            f"{target.name} would be faster if {names} had the padding that its sparse path has: "
            f"before training, model, _ = kprune.prepare(model, {target.name!r}).",
            stacklevel=2,
        )
    # Layers, as names would be read as wildcards. A sparsity of its own has what its pattern cannot
    # have more of, or less; all others have the schedule of `Pruning`.
    chosen = {
        layer: how["pattern"] if how["sparsity"] == sparsity else how
        for layer in flatten_layers(model)
        for how in [found.get(layer.name)]
        if how is not None
    }
    return {**chosen, "*": None}


register(_target_of_pruning, _layers_of_pruning)


def _sparse_kernels(model, ops, target, sparsity, fast):
    """Choose what has a sparse kernel; return the settings and the reasons, {layer name: ...}."""
    chosen, reasons = {}, {}
    for op in ops:
        if op.weight is None or op.name in reasons:
            continue
        pattern, reasons[op.name] = _judge(op, target, sparsity, fast)
        if pattern is not None and _prunable(model, op.name):
            chosen[op.name] = {"sparsity": sparsity, "pattern": pattern}
    return chosen, reasons


def _with_channels(ops, share, verdicts, chosen, reasons):
    """Add the layers that lose channels, and why others do not."""
    # One setting for all, so that an allocation of `Pruning`'s shares it out among them.
    setting = {"sparsity": share, "pattern": Channels(round_to=ROUND_TO)}
    every, why = {}, {}
    for name in dict.fromkeys([*(op.name for op in ops), *verdicts]):
        if name in chosen:
            every[name] = chosen[name]
        elif name in verdicts and verdicts[name] is None:
            every[name] = setting
        said = [reasons.get(name, "no sparse kernel")]
        if name not in chosen:
            said += [verdicts.get(name) or "its channels go"] if name in verdicts else []
        if name in reasons or name in verdicts:
            why[name] = "; ".join(said)
    return every, why


def _fast_convolutions(model, target, sparsity, input_shape=None):
    """{name: None, or why it is not on the sparse path} of the 1x1 convolutions."""
    if not target.clusters:
        return {}
    changed, done = rewrite(model, target, sparsity, input_shape)
    rewritten = {one.layer: one.what for one in done}
    result = {}
    for cluster in xnnpack.clusters(read(changed, sparsity, input_shape)):
        for op in cluster.ops:
            if op.pointwise:
                result[op.name] = None if cluster.changed else _why_not(cluster, rewritten)
    return result


def _why_not(cluster, rewritten):
    if cluster.blame is None:
        return f"more than {NEEDED_PERCENT} must be zero, not {tables.percent(cluster.sparsity)}"
    blame = cluster.blame
    advice = f"; {blame.advice}" if blame.advice else ""
    # It may be the rewritten form of the user's layer that is in the way.
    form = f" (rewritten: {rewritten[blame.op.name]})" if blame.op.name in rewritten else ""
    return f"'{blame.op.name}' {blame.reason}{form}{advice}"


def _judge(op, target, sparsity, fast):
    """Return the pattern for an operator, or None, and why."""
    if op.kind == "dense" and len(op.outputs[0].shape) != 4:
        return _judge_dense(op, target, sparsity)
    if not op.pointwise:
        return None, "no sparse kernel"
    if not target.clusters:
        return None, f"{target.name} computes 1x1 convolutions densely"
    reason = fast.get(op.name, "it is in no cluster of XNNPACK's sparse path")
    if reason is None:
        return Unstructured(), "a 1x1 convolution on XNNPACK's sparse path"
    return None, reason


def _judge_dense(op, target, sparsity):
    needed = target.blocks_from
    if needed is None:
        return None, f"{target.name} has no sparse kernels"
    if sparsity <= needed:
        share = tables.percent(needed)
        return None, f"blocks of (4, 1) are faster than dense only with more than {share} zeros"
    inputs = op.inputs[0].shape[-1]
    if inputs % BLOCK:
        return None, f"its {inputs} inputs do not divide into blocks of 4"
    return Block((BLOCK, 1)), "a dense layer, in blocks of (4, 1)"


def _prunable(model, name):
    return any(
        weight.reason is None and any(layer.name == name for layer in weight.parents)
        for weight in weights_of(model)
    )


class PruneForLatencyOnXNNPack(PruningPolicy):
    """TFMOT's `pruning_policy` of this name: prune what XNNPACK's sparse path accelerates.

    Only 1x1 convolutions are wrapped, and a model in which none of them would be faster is
    refused. TFMOT asks for `GlobalAveragePooling2D(keepdims=True)` at the end; what decides here
    are XNNPACK's own rules, with the rewrites of `export_tflite`.

    Elsen et al., "Fast Sparse ConvNets" (2020).

    Example:

    ```python
    model = kprune.prune_low_magnitude(
        model, schedule, pruning_policy=kprune.PruneForLatencyOnXNNPack()
    )
    ```
    """

    target = "litert-arm64"

    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Whether to wrap a layer: 1x1 convolutions."""
        convolution = isinstance(layer, keras.layers.Conv2D)
        return convolution and tuple(layer.kernel_size) == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise ValueError unless some 1x1 convolutions of the model would be faster."""
        # What is wrapped already counts as it was.
        model = replace_layers(
            model,
            lambda part: part.layer if isinstance(part, PruneLowMagnitude) else part,
            inside=lambda part: isinstance(part, keras.Model),
        )
        check_model(model)
        if graph_of(model) is None:
            raise ValueError(
                f"The model '{model.name}' is subclassed: XNNPACK's sparse path can "
                "be foreseen for functional and Sequential models only."
            )
        fast = _fast_convolutions(model, get_target(self.target), sparsity=0.9)
        if all(reason is not None for reason in fast.values()):
            why = next(iter(fast.values()), "it has no 1x1 convolution")
            raise ValueError(
                f"Nothing in '{model.name}' would be faster with XNNPACK's sparse kernels: {why}"
            )
