"""Depth and channels on one budget: how many blocks leave, and how many channels of the rest."""

import warnings

from kprune.graphs.functional import functional_form
from kprune.graphs.walk import graph_of
from kprune.structured.block_scores import Trial, batches_of
from kprune.structured.depth import removals, total_flops, without
from kprune.structured.reasons import OutOfReach

_NEAR = 0.02


def prune_with_depth(model, kind, share, data, loss, free_dim, prune):
    """Return a smaller model: some blocks removed, and channels of those that stay.

    Blocks leave one by one, in the order of `remove_blocks(criterion="loss")`. After none of
    them, one, two … channels make up the rest of the budget, and of the models that come out
    the one with the lowest loss on the data, before any training, is returned.

    Args:
        model: a built Keras model.
        kind: "flops" or "params".
        share: float in (0, 1), of those that stays.
        data: as in `remove_blocks`, with targets.
        loss: the loss; None for the model's own.
        free_dim: int, or None.
        prune: function from a model, the share of it that stays, and the loss, to a model of
            fewer channels.

    Raises:
        ValueError: no data or loss; a budget that no number of blocks brings within reach.
    """
    form = functional_form(model)
    loss = loss or (model.loss if model.compiled else None)
    if loss is None or data is None:
        missing = "a loss: compile the model, or pass `loss=`" if loss is None else "`data=(x, y)`"
        raise ValueError(f"depth=True measures what blocks are worth: it needs {missing}.")
    batches = batches_of(data, graph_of(form).inputs)
    total = _size(form, kind, free_dim)
    best, lowest, remarks, errors, last = None, None, [], [], None
    for shallow, left in _shallower(form, kind, share, batches, loss, free_dim):
        last = shallow
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                small = (
                    shallow if left <= share * (1 + _NEAR) else prune(shallow, share / left, loss)
                )
            except OutOfReach as error:
                errors.append(error)
                continue
        if left < share * (1 - _NEAR):
            continue  # With fewer blocks gone, channels came nearer, if anything could.
        reached = _size(small, kind, free_dim) / total
        # One that misses the budget is taken only where all do.
        found = abs(reached - share) > _NEAR * share, _loss_of(small, batches, loss)
        if lowest is None or found < lowest:
            best, lowest, remarks = small, found, warned
    for warning in remarks:
        is_budget = str(warning.message).startswith(f"{kind}=")  # Of the shallower model.
        if issubclass(warning.category, UserWarning) and not is_budget:
            warnings.warn(warning.message, stacklevel=4)
    small = last if best is None else best
    reached = _size(small, kind, free_dim) / total
    if best is None and reached > share:
        raise errors[0]
    if abs(reached - share) > _NEAR * share:
        warnings.warn(
            f"{kind}={share:g} was asked for and {reached:.3f} reached: blocks leave as a whole, "
            "and numbers of channels are multiples of `round_to`.",
            stacklevel=4,
        )
    return small


def _shallower(form, kind, share, batches, loss, free_dim):
    """Yield `(model, share of it that is left)` without any block, with one gone, two …

    The first that is within the budget is the last.
    """
    total, gone, shallow = _size(form, kind, free_dim), [], without(form, [])
    order = removals(form, batches, loss, free_dim)
    while True:
        left = _size(shallow, kind, free_dim) / total
        yield shallow, left
        block = next(order, None) if left > share * (1 + _NEAR) else None
        if block is None:
            return
        gone.append(block)
        shallow = without(form, gone)


def _size(model, kind, free_dim):
    return model.count_params() if kind == "params" else total_flops(model, free_dim)


def _loss_of(model, batches, loss):
    """The mean loss of a model on data; the model stays uncompiled."""
    copy = without(model, [])
    copy.compile(loss=loss, jit_compile=False)
    return Trial(copy, batches).loss()
