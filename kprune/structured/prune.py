"""Remove the least important channels from a model, to a budget."""

import contextlib
import numbers
import warnings
from typing import Any

import keras
import numpy as np

from kprune._system.type_aliases import FilePath, InputShape
from kprune.graphs.flops import flops as count_flops
from kprune.graphs.functional import functional_form
from kprune.graphs.sizes import concrete_inputs, sizes_of
from kprune.graphs.weights import weights_of
from kprune.pruning import selection
from kprune.pruning.allocation import Allocation, Global, Uniform
from kprune.pruning.criteria import Criterion, Magnitude
from kprune.structured.activations import activation_scores
from kprune.structured.block_scores import repeatable
from kprune.structured.budget import NEAR, Sizes, check_counts, fit_budget, fit_measured
from kprune.structured.costs import Cost, calibrate
from kprune.structured.gradients import scores_on_data
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import ChannelReport, find_groups, keep_groups, open_groups
from kprune.structured.importance import channel_scores
from kprune.structured.joint import prune_with_depth
from kprune.structured.latency import AIM, check_latency, settled, widest_rounding
from kprune.structured.latency import NEAR as NEAR_LATENCY
from kprune.structured.latency import start as start_latency
from kprune.structured.reasons import OutOfReach
from kprune.structured.surgery import cut

_ROUND_TO = 8  # What the runtimes compute at once, where that is not measured.


def channel_groups(
    model: keras.Model,
    free_dim: int | None = None,
    heads: bool = True,
    hidden: bool = False,
    input_shape: InputShape | None = None,
) -> ChannelReport:
    """Return the dependency groups of a model: coupled channels, and why some must stay.

    Example:

    ```python
    report = kprune.channel_groups(model)
    print(report)
    [(group.name, group.frozen) for group in report if group.frozen]
    ```

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        heads: bool, whether attention heads may go, as in `prune_channels`.
        hidden: bool, whether channels that a LayerNormalization goes over may go, as there.
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            sizes to follow channels at; by default as in `kprune.flops`.

    Returns:
        A `ChannelReport`: prints as a table, and iterates over its `ChannelGroup`s.

    Raises:
        TypeError: not a Keras 3 model; `input_shape` is neither tuple nor dict.
        ValueError: not built; a subclassed model that cannot be traced; sizes that do not fit
            the model, or none was found that does.
    """
    graph = ChannelGraph(functional_form(model), free_dim, input_shape)
    with contextlib.suppress(ValueError):  # Then the rules' own counts are what there is.
        calibrate(graph)
    untouched = [
        (graph.name_of(layer), type(layer).__name__, reason)
        for layer, reason in graph.untouched.values()
    ]
    groups = find_groups(graph)
    keep_groups(groups, heads, hidden)
    opened = {id(one.layer): one for one in graph.openings.values()}.values()
    forms = [(graph.name_of(o.layer), type(o.layer).__name__, o.closed) for o in opened]
    return ChannelReport(model.name, groups, untouched, forms)


def prune_channels(
    model: keras.Model,
    flops: float | None = None,
    params: float | None = None,
    channels: float | None = None,
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    round_to: int | None = None,
    min_channels: int | None = None,
    layers: Any = None,
    data: Any = None,
    loss: Any = None,
    free_dim: int | None = None,
    heads: bool = True,
    hidden: bool = False,
    depth: bool = False,
    input_shape: InputShape | None = None,
    latency: float | None = None,
    target: Any = None,
    threads: int | None = None,
    measured: FilePath | None = None,
    latency_model: Any = None,
) -> keras.Model:
    """Return a smaller model: the least important channels removed, the weights copied.

    Layers lose filters, units, heads; whatever is tied to them by the graph of the model
    (norms, residual additions, the kernels that take them in) loses the same. What comes
    back is a plain Keras model, faster in every runtime. Compile it and fine-tune it; the
    original is as it was.

    Channels are ranked over the whole model by scores whose mean is 1 in each group, and
    no group goes below `min_channels`. Fang et al., "DepGraph" (2023).

    Example:

    ```python
    small = kprune.prune_channels(model, flops=0.5)
    small.compile("adam", "sparse_categorical_crossentropy")
    small.fit(x, y, epochs=10)
    ```

    In place of `flops=0.5`, `latency=0.5, target="onnxruntime"` asks for half the time that the
    exported file takes in ONNX Runtime on this machine.

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        flops: float in (0, 1), the share of the model's FLOPs (as `kprune.flops` counts
            them) that stays. Give this, `params`, `channels` or `latency`.
        params: float in (0, 1), the share of its parameters that stays.
        channels: float in (0, 1), the share of the channels that stays, among those that
            can go.
        criterion: what scores the channels: `Magnitude()` (the default: the sum of the
            weights' absolute values), `L2Norm()`, `BatchNormScale()`, `Taylor()`, `Fisher()`,
            `APoZ()`, `MeanActivation()`, `Random()`, or a `Criterion` of your own.
        allocation: `Global()` (the default) ranks all channels together; `Uniform()` takes
            the same share of every group.
        round_to: int, what the numbers of channels are multiples of, where they change; by
            default 8, or with `latency` what the runtime is seen to compute at once.
        min_channels: int, the fewest that any group keeps; an eighth by default.
        layers: which layers may lose the channels they make; all by default. A layer's
            name (`*` and `?` are wildcards), a class, a layer, a predicate, a list of
            those, or a dict from those to None, for layers to leave as they are.
        data: `(x, y)` or a dataset for `fit`, for criteria that need gradients, such as
            `Taylor()`, and `depth`; for `APoZ()` and `MeanActivation()` inputs `x` will do.
        loss: the loss to take gradients of, for criteria that need them, and to measure, for
            `depth`; the model's own by default.
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        heads: bool, whether attention heads may go.
        hidden: bool, whether channels that a LayerNormalization goes over may go, such as the
            hidden size of a Transformer. Without them it has another mean and variance, so
            that the model computes something else than with zeros in their place.
        depth: bool, whether whole blocks may leave as well (see
            `kprune.structured.find_blocks`), by the loss on `data`. For each number of blocks,
            the least important of which leave first, channels make up the rest of the budget;
            the model whose loss is lowest, before any training, is what comes back. For
            `flops` and `params`, without `layers`.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            sizes to count FLOPs at where the model leaves them open; by default as in
            `kprune.flops`. What comes back leaves them open, too.
        latency: float in (0, 1), the share of the latency of the model's exported file, of a
            batch of one, that the smaller model's file has in the runtime of `target`: measured
            operator by operator, then whole, side by side, until it is within 5%.
        target: with `latency`, where it is measured: `"litert-x86"`, `"litert-arm64"`,
            `"litert-wasm"`, `"onnxruntime"`, or a `kprune.targets.Target`.
        threads: int, how many threads the runtime may use; 1 by default.
        measured: path of the JSON with a device's times of the files of
            `kprune.search.write_operators`, for a target that this machine is not.
        latency_model: a `kprune.search.LatencyModel` to measure with, of this model or of the one
            that it was cut from, in place of `target`, `threads` and `measured`.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        TypeError: not a Keras 3 model, or an argument of the wrong kind.
        ValueError: not exactly one budget, or one out of range or out of reach; a model in
            which nothing can go; `layers` that matches nothing; data that does not fit, or NaN in
            activations; channels whose activations are what is scored and cannot be seen, as
            inside MultiHeadAttention; a subclassed model that cannot be traced; sizes that do not
            fit the model, or none was found that does; a target that this machine cannot run.
        ImportError: with `latency`, the runtime is not installed.
        ExportError: with `latency`, the model cannot be exported.
    """
    kind, share = _budget(flops=flops, params=params, channels=channels, latency=latency)
    of_latency = {"target": target, "threads": threads, "measured": measured,
                  "latency_model": latency_model}  # fmt: skip
    check_latency(latency, **of_latency)
    if round_to is not None:
        check_counts(round_to=round_to)
    if min_channels is not None:
        check_counts(min_channels=min_channels)
    criterion, allocation = criterion or Magnitude(), allocation or Global()
    _check_kinds(criterion, allocation)
    if depth:
        return _with_depth(
            model, kind, share, layers, data, loss, free_dim, input_shape, criterion=criterion,
            allocation=allocation, round_to=round_to or _ROUND_TO, min_channels=min_channels,
            heads=heads, hidden=hidden,
        )  # fmt: skip
    graph = ChannelGraph(functional_form(model), free_dim, input_shape)
    total = _total(kind, graph)
    groups = find_groups(graph)
    keep_groups(groups, heads, hidden)
    open_groups(groups, model, selection.choose(weights_of(model), layers))
    scores = _scores(graph, groups, criterion, data, loss)
    timed = None
    if kind == "latency":
        timed = start_latency(model, graph, groups, **of_latency)
    cost = timed.estimate if timed else _cost(kind, total, groups)
    everything = cost(np.array([group.channels for group in groups]))

    def fitted(round_to, aim):
        sizes = _sizes(groups, round_to, min_channels)
        return fit_budget(sizes, scores, cost, aim, isinstance(allocation, Uniform))

    def tried(kept):
        gone = [
            group.roots[np.argsort(score, kind="stable")[: group.channels - number]]
            for group, score, number in zip(groups, scores, kept)
        ]
        small = cut(graph, np.concatenate(gone))
        expected = cost(kept) / everything
        reached = timed.share_of(small, kept) if timed else None
        if not timed:
            reached = _measured(kind, small, graph.input_shape, total)
        return small, reached or expected, expected

    near, enough = (NEAR_LATENCY, AIM) if timed else (NEAR, NEAR)
    finest = _sizes(groups, round_to or (1 if timed else _ROUND_TO), min_channels)
    reached_by = timed.measure if timed else cost  # Estimates may be far off at the fewest.
    _check_reach(kind, share, reached_by, finest, everything, groups, tried, timed)
    if timed:
        fitted = settled(fitted, timed)
        round_to = round_to or widest_rounding(
            timed, lambda n: fitted(n, share * everything), share
        )
    round_to = round_to or _ROUND_TO
    sizes = _sizes(groups, round_to, min_channels)
    kept, small, reached = fit_measured(
        lambda aim: fitted(round_to, aim), tried, everything, share, enough
    )
    if abs(reached - share) > near * share:
        fewest = [
            f"{group.name} ({number})"
            for group, one, number in zip(groups, sizes, kept)
            if not group.frozen and number == one.smallest
        ]
        warnings.warn(
            f"{kind}={share:g} was asked for and {reached:.3f} reached: with numbers of channels "
            f"that are multiples of round_to={round_to} nothing that was tried comes nearer"
            + (f"; at their fewest are {', '.join(fewest[:10])}" if fewest else "")
            + ".",
            stacklevel=2,
        )
    return small


def _with_depth(model, kind, share, layers, data, loss, free_dim, input_shape, **options):
    """The model without some blocks, and without some channels of the others."""
    if kind in ("channels", "latency") or layers is not None:
        raise ValueError(
            "depth=True takes a budget in `flops` or `params`, and no `layers`: call "
            "kprune.structured.remove_blocks first, then prune_channels without depth. "
            f"Received: {kind}={share:g}, layers={layers!r}"
        )

    def narrower(shallow, left, loss):
        return prune_channels(
            shallow, **{kind: left}, data=data, loss=loss, input_shape=sizes, **options
        )

    form = functional_form(model)
    sizes = sizes_of(concrete_inputs(form, input_shape, free_dim))
    loss, data = loss or (model.loss if model.compiled else None), repeatable(data)
    return prune_with_depth(form, kind, share, data, loss, sizes, narrower)


def _budget(**budgets):
    given = {kind: share for kind, share in budgets.items() if share is not None}
    if len(given) != 1:
        raise ValueError(
            f"Give one of `flops`, `params`, `channels` and `latency`. Received: {given or None}"
        )
    ((kind, share),) = given.items()
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < 1:
        raise ValueError(
            f"`{kind}` is the share that stays, above 0 and below 1. Received: {kind}={share!r}"
        )
    return kind, float(share)


def _check_kinds(criterion, allocation):
    if not isinstance(criterion, Criterion):
        raise TypeError(f"`criterion` must be a kprune criterion. Received: {criterion!r}")
    if not isinstance(allocation, Global | Uniform):
        raise TypeError(f"`allocation` must be Global() or Uniform(). Received: {allocation!r}")


def _total(kind, graph):
    """What the model has of a budget's kind; None for channels, which only groups count."""
    if kind != "flops":
        return graph.model.count_params() if kind == "params" else None
    total = calibrate(graph)
    if not total:
        raise ValueError(
            f"No FLOPs of {graph.model.name!r} could be counted; see kprune.flops(model). Give "
            "`params` or `channels` instead."
        )
    return total


def _measured(kind, small, input_shape, total):
    """The share of the model's total that a smaller model has; None for channels."""
    if kind == "params":
        return small.count_params() / total
    if kind == "flops":
        return count_flops(small, input_shape=input_shape).total / total
    return None


def _cost(kind, total, groups):
    """The function of the numbers of channels kept that the budget limits."""
    cost = Cost(groups)
    everything = np.array([group.channels for group in groups])
    if kind == "channels":
        widths = np.array([0 if group.frozen else group.width for group in groups])
        return lambda kept: float(widths @ kept)
    which = 0 if kind == "params" else 1
    constant = total - cost(everything)[which]
    return lambda kept: constant + cost(kept)[which]


def _sizes(groups, round_to, min_channels):
    return [Sizes(group, round_to, min_channels) for group in groups]


def _check_reach(kind, share, cost, sizes, everything, groups, measured, timed):
    """Raise unless the smallest model, measured if need be, is within the budget."""
    fewest = np.array([one.smallest for one in sizes])
    least = cost(fewest) / everything
    if least > share * (1 + NEAR):
        _, least, _ = measured(fewest)
    if least <= share * (1 + NEAR):
        return
    frozen = [f"{group.name} ({group.frozen[0]})" for group in groups if group.frozen]
    few = [
        f"{group.name} ({group.channels})"
        for group, one in zip(groups, sizes)
        if not group.frozen and len(one.allowed) == 1
    ]
    floor = timed.floor if timed else 0.0
    raise OutOfReach(
        f"{kind}={share:g} is out of reach: with all that may go gone, {least:.3f} stays. Every "
        "group keeps its fewest channels (see `min_channels`, `round_to`)"
        + (f", which for these is all they have: {', '.join(few[:10])}" if few else "")
        + (f", and these must stay: {'; '.join(frozen[:10])}" if frozen else "")
        + (f". A run of an empty file takes {floor:.3f} already" if floor > least / 2 else "")
        + "."
    )


def _scores(graph, groups, criterion, data, loss):
    """A score for each channel of each group."""
    if criterion.of_activations:
        return activation_scores(graph, groups, criterion, data)
    if criterion.needs_gradient:
        scores_of = scores_on_data(graph, criterion, data, loss)
    else:
        known = {}

        def scores_of(variable):
            if id(variable) not in known:
                known[id(variable)] = criterion(keras.ops.convert_to_tensor(variable))
            return known[id(variable)]

    return [
        np.ones(group.channels)
        if group.frozen
        else keras.ops.convert_to_numpy(channel_scores(group, criterion, scores_of))
        for group in groups
    ]
