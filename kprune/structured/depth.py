"""Remove the least important blocks from a model, to a number or to a budget."""

import numbers
import warnings
from typing import Any

import keras
import numpy as np

from kprune._system.type_aliases import InputShape
from kprune.graphs.flops import flops as count_flops
from kprune.graphs.functional import functional_form
from kprune.graphs.rebuild import Rebuild
from kprune.graphs.sizes import concrete_inputs, sizes_of
from kprune.graphs.walk import graph_of
from kprune.structured.block_scores import Trial, batches_of
from kprune.structured.blocks import BlockReport, blocks_of
from kprune.structured.budget import NEAR

CRITERIA = ("similarity", "loss", "random")


def find_blocks(
    model: keras.Model,
    data: Any = None,
    criterion: str = "similarity",
    loss: Any = None,
    seed: int = 0,
    free_dim: int | None = None,
    input_shape: InputShape | None = None,
) -> BlockReport:
    """Return the blocks of a model that can be bypassed; with data, how important each is.

    A block is an addition x + f(x) of which x can stay, or a layer with weights (recurrent,
    Dense, attention, nested, your own) whose output has the shape of its input. What makes an
    output of the model is none, nor is a convolution without an addition.

    Example:

    ```python
    print(kprune.structured.find_blocks(model, data=x_train[:256]))
    ```

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        data: as in `remove_blocks`; without it the blocks have no score.
        criterion: "similarity", "loss" or "random", as in `remove_blocks`.
        loss: as in `remove_blocks`.
        seed: int, for "random".
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        input_shape: the sizes to count FLOPs at, as in `prune_channels`.

    Returns:
        A `BlockReport`: prints as a table, and iterates over its `RemovableBlock`s.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not built; a subclassed model that cannot be traced; data that does not fit.
    """
    form, sizes = _checked(model, criterion, free_dim, input_shape)
    blocks = blocks_of(form, sizes)
    if data is not None or criterion == "random":
        data = batches_of(data, graph_of(form).inputs)
        scores = _Scores(form, data, criterion, _loss(model, criterion, loss), seed)
        for block, score in zip(blocks, scores.of(range(len(blocks)), ())):
            block.score = float(score)
    scored = criterion if blocks and blocks[0].score is not None else None
    return BlockReport(model.name, blocks, count_flops(form, input_shape=sizes).total, scored)


def remove_blocks(
    model: keras.Model,
    keep: int | float | None = None,
    flops: float | None = None,
    data: Any = None,
    criterion: str = "similarity",
    loss: Any = None,
    seed: int = 0,
    free_dim: int | None = None,
    input_shape: InputShape | None = None,
) -> keras.Model:
    """Return a shallower model: the least important blocks removed, the weights copied.

    Blocks leave one by one; the output of each is replaced by its input, so that the model
    computes what it computed with the block's branch at zero. `find_blocks` lists them. What
    comes back is a plain Keras model; compile it and fine-tune it. The original is as it was.

    Example:

    ```python
    small = kprune.structured.remove_blocks(model, keep=0.75, data=x_train[:256])
    small.compile("adam", "sparse_categorical_crossentropy")
    small.fit(x_train, y_train, epochs=3)  # fine-tune
    ```

    Args:
        model: a built Keras model: Sequential, functional, or one that can be traced.
        keep: how many of the blocks stay: an int, or a float in (0, 1), their share. Give this
            or `flops`.
        flops: float in (0, 1), the share of the model's FLOPs that stays, at most.
        data: `(x, y)` of arrays or an iterable of such batches; `x` alone is enough for
            "similarity". Some hundred examples will do. "random" takes none.
        criterion: "similarity": 1 minus the mean cosine similarity of what goes into the block
            and what comes out, over examples and positions (Men et al., "ShortGPT", 2024, who
            call it block influence); "loss": the change of the loss on the data, measured again
            after each removal; "random": any, a control.
        loss: for "loss"; the model's own by default.
        seed: int, for "random".
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        input_shape: the sizes to count FLOPs at, as in `prune_channels`.

    Returns:
        A `keras.Model`, not compiled. A Sequential model stays one.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not exactly one of `keep` and `flops`, or one out of range or out of reach;
            no blocks; data that is missing or does not fit; a subclassed model that cannot be
            traced.
    """
    form, sizes = _checked(model, criterion, free_dim, input_shape)
    blocks = blocks_of(form, sizes)
    number, share = _aims(keep, flops, blocks, model)
    if data is None and criterion != "random":
        raise ValueError(f'The criterion "{criterion}" needs data: pass `data=(x, y)`.')
    data = batches_of(data, graph_of(form).inputs)
    scores = _Scores(form, data, criterion, _loss(model, criterion, loss), seed)
    if number is not None:
        removed = list(_removals(blocks, scores, lambda gone: _staying(blocks, gone) >= number))
        if _staying(blocks, removed) > number:
            raise ValueError(
                f"keep={keep!r} is out of reach: {_staying(blocks, removed)} blocks stay, as they "
                "lie around ones that are gone."
            )
        return without(form, removed)
    return _to_flops(form, share, blocks, scores, sizes)


def without(model, blocks):
    """Return a copy of a model without some blocks.

    Args:
        model: a model with a graph (see `graph_of`).
        blocks: list of its `RemovableBlock`s.

    Returns:
        A plain Keras model, Sequential or functional, uncompiled.

    Raises:
        CannotCopy: a layer cannot be made again from its configuration.
    """
    rebuild = _Shallower(model, blocks)
    new = rebuild.run()
    for variable in rebuild.constants:
        warnings.warn(
            f"{variable.path} is no layer's variable, so it is a constant in the smaller model "
            "and will not be trained there. Put it into a layer.",
            stacklevel=3,
        )
    return new


def removals(form, batches, loss, sizes):
    """Return an iterator of a model's blocks, in the order in which they leave by the loss.

    Args:
        form: a model with a graph (see `graph_of`).
        batches: from `batches_of`.
        loss: what `compile` takes.
        sizes: the `input_shape` to count FLOPs at.
    """
    scores = _Scores(form, batches, "loss", loss, 0)
    return _removals(blocks_of(form, sizes), scores, lambda gone: True)


class _Shallower(Rebuild):
    def __init__(self, model, blocks):
        super().__init__(model)
        self._blocks = {id(block.end): block for block in blocks}
        self._inside = {key for block in blocks for key in block.inside}

    def place(self, node, args, kwargs):
        block = self._blocks.get(id(node))
        if block is not None:
            # The arguments' tensors come in the order of the node's own.
            given = [a for a in keras.tree.flatten((args, kwargs)) if _is_tensor(a)]
            index = [id(t) for t in node.arguments.keras_tensors].index(id(block.source))
            return block.bypass, (given[index],), {}
        if id(node) in self._inside:
            # Nothing looks at these: what takes them in leaves as well.
            return lambda *args, **kwargs: node.outputs, args, kwargs
        return super().place(node, args, kwargs)


def _is_tensor(value):
    return isinstance(value, keras.KerasTensor)


class _Scores:
    """Scores a model's blocks by a criterion, on a copy of the model."""

    def __init__(self, form, batches, criterion, loss, seed):
        self._criterion = criterion
        self._random = np.random.default_rng(seed)
        if criterion == "random":
            return
        copy = without(form, [])
        self._blocks, self._once = blocks_of(copy), None
        if criterion == "loss":
            copy.compile(loss=loss, jit_compile=False)
        self._trial = Trial(copy, batches)

    def of(self, places, removed):
        """Return a float for each of some blocks, given as places in the list of all."""
        if self._criterion == "random":
            return self._random.random(len(places))
        if self._criterion == "similarity":
            if self._once is None:
                self._once = 1 - self._trial.similarity(self._blocks)
            return self._once[list(places)]
        gone = [self._blocks[i] for i in removed]
        now = self._trial.loss(gone)
        return [self._trial.loss([*gone, self._blocks[i]]) - now for i in places]


def _removals(blocks, scores, may):
    """Yield the blocks one by one, the least important first.

    Args:
        blocks: list of all `RemovableBlock`s.
        scores: `_Scores`.
        may: function from a list of blocks to whether they may all be gone.
    """
    gone = []
    while True:
        removed = [blocks[i] for i in gone]
        left = [
            i
            for i, block in enumerate(blocks)
            if not any(block.overlaps(other) for other in removed) and may([*removed, block])
        ]
        if not left:
            return
        gone.append(left[int(np.argmin(scores.of(left, gone)))])
        yield blocks[gone[-1]]


def _staying(blocks, gone):
    """How many blocks are neither gone nor inside one that is."""
    return sum(not any(block.covered <= other.covered for other in gone) for block in blocks)


def _to_flops(form, share, blocks, scores, sizes):
    total = count_flops(form, input_shape=sizes).total
    if not total:
        raise ValueError(f"No FLOPs of {form.name!r} could be counted. Give `keep` instead.")
    removed, left = [], 1.0
    for block in _removals(blocks, scores, lambda gone: True):
        removed.append(block)
        left -= block.flops / total
        if left <= share * (1 + NEAR):
            break
    else:
        names = [block.name for block in blocks if block not in removed]
        raise ValueError(
            f"flops={share:g} is out of reach: with all {len(removed)} blocks gone that can go, "
            f"{left:.3f} stays, in layers that are in no block"
            + (f" and in {', '.join(names[:10])}, which lie around blocks" if names else "")
            + ". kprune.prune_channels(model, flops=..., depth=True, data=...) removes channels, "
            "too."
        )
    small = without(form, removed)
    reached = count_flops(small, input_shape=sizes).total / total
    if abs(reached - share) > NEAR * share:
        warnings.warn(
            f"flops={share:g} was asked for and {reached:.3f} reached: a block leaves as a whole. "
            "kprune.prune_channels(model, flops=..., depth=True, data=...) comes nearer.",
            stacklevel=3,
        )
    return small


def _checked(model, criterion, free_dim, input_shape):
    """The functional form of a model and the sizes of its inputs, the arguments looked at."""
    if criterion not in CRITERIA:
        raise ValueError(f"`criterion` must be one of {CRITERIA}. Received: {criterion!r}")
    form = functional_form(model)
    return form, sizes_of(concrete_inputs(form, input_shape, free_dim))


def _loss(model, criterion, loss):
    if criterion != "loss":
        return None
    loss = loss or (model.loss if model.compiled else None)
    if loss is None:
        raise ValueError("There is no loss: compile the model, or pass `loss=`.")
    return loss


def _aims(keep, flops, blocks, model):
    """`(number, None)` or `(None, share)`: how many blocks, or what share of FLOPs, stays."""
    if (keep is None) == (flops is None):
        raise ValueError(
            f"Give one of `keep` and `flops`. Received: keep={keep!r}, flops={flops!r}"
        )
    if not blocks:
        raise ValueError(
            f"{model.name!r} has no block that can be bypassed; see "
            "kprune.structured.find_blocks(model)."
        )
    if flops is not None:
        if isinstance(flops, bool) or not isinstance(flops, numbers.Real) or not 0 < flops < 1:
            raise ValueError(
                f"`flops` is the share that stays, above 0 and below 1. Received: flops={flops!r}"
            )
        return None, float(flops)
    is_int = isinstance(keep, numbers.Integral) and not isinstance(keep, bool)
    is_share = isinstance(keep, numbers.Real) and not isinstance(keep, numbers.Integral)
    number = round(float(keep) * len(blocks)) if is_share and 0 < keep < 1 else keep
    if not (is_int or (is_share and 0 < keep < 1)) or not 0 <= number < len(blocks):
        raise ValueError(
            f"`keep` is how many of the {len(blocks)} blocks stay, at least 0 and fewer than all, "
            f"or their share, above 0 and below 1. Received: keep={keep!r}"
        )
    return int(number), None
