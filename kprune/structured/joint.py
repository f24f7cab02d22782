"""Depth and channels on one budget: how many blocks leave, and how many channels of the rest."""

import warnings

from kprune.graphs.flops import flops as count_flops
from kprune.graphs.walk import graph_of
from kprune.structured.block_scores import Trial, batches_of
from kprune.structured.budget import NEAR
from kprune.structured.depth import removals, without
from kprune.structured.reasons import OutOfReach


def prune_with_depth(form, kind, share, data, loss, sizes, prune):
    """Return a smaller model: some blocks removed, and channels of those that stay.

    Blocks leave one by one, in the order of `remove_blocks(criterion="loss")`. After none of
    them, one, two … channels make up the rest of the budget, and of the models that come out
    the one with the lowest loss on the data, before any training, is returned.

    Args:
        form: a model with a graph (see `graph_of`).
        kind: "flops" or "params".
        share: float in (0, 1), of those that stays.
        data: as in `remove_blocks`, with targets.
        loss: the loss, or None.
        sizes: the `input_shape` to count FLOPs at, every dimension known.
        prune: function from a model, the share of it that stays, and the loss, to a model of
            fewer channels.

    Raises:
        ValueError: no data or loss; a budget that no number of blocks brings within reach.
    """
    if loss is None or data is None:
        missing = "a loss: compile the model, or pass `loss=`" if loss is None else "`data=(x, y)`"
        raise ValueError(f"depth=True measures what blocks are worth: it needs {missing}.")
    batches = batches_of(data, graph_of(form).inputs)
    total = _size(form, kind, sizes)
    best, lowest, remarks, errors, last = None, None, [], [], None
    for shallow, left in _shallower(form, kind, share, batches, loss, sizes):
        last = shallow
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                small = (
                    shallow if left <= share * (1 + NEAR) else prune(shallow, share / left, loss)
                )
            except OutOfReach as error:
                errors.append(error)
                continue
        if left < share * (1 - NEAR):
            continue  # With fewer blocks gone, channels came nearer, if anything could.
        reached = _size(small, kind, sizes) / total
        # One that misses the budget is taken only where all do.
        found = abs(reached - share) > NEAR * share, _loss_of(small, batches, loss)
        if lowest is None or found < lowest:
            best, lowest, remarks = small, found, warned
    for warning in remarks:
        is_budget = str(warning.message).startswith(f"{kind}=")  # Of the shallower model.
        if issubclass(warning.category, UserWarning) and not is_budget:
            warnings.warn(warning.message, stacklevel=4)
    small = last if best is None else best
    reached = _size(small, kind, sizes) / total
    if best is None and reached > share:
        raise errors[0]
    if abs(reached - share) > NEAR * share:
        warnings.warn(
            f"{kind}={share:g} was asked for and {reached:.3f} reached: blocks leave as a whole, "
            "and numbers of channels are multiples of `round_to`.",
            stacklevel=4,
        )
    return small


def _shallower(form, kind, share, batches, loss, sizes):
    """Yield `(model, share of it that is left)` without any block, with one gone, two …

    The first that is within the budget is the last.
    """
    total, gone, shallow = _size(form, kind, sizes), [], without(form, [])
    order = removals(form, batches, loss, sizes)
    while True:
        left = _size(shallow, kind, sizes) / total
        yield shallow, left
        block = next(order, None) if left > share * (1 + NEAR) else None
        if block is None:
            return
        gone.append(block)
        shallow = without(form, gone)


def _size(model, kind, sizes):
    return model.count_params() if kind == "params" else count_flops(model, input_shape=sizes).total


def _loss_of(model, batches, loss):
    """The mean loss of a model on data; the model stays uncompiled."""
    copy = without(model, [])
    copy.compile(loss=loss, jit_compile=False)
    return Trial(copy, batches).loss()
