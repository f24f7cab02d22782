"""Scores of blocks: what the model loses without them, measured on data."""

from collections.abc import Iterator

import keras
import numpy as np

from kprune._system.errors import first_line
from kprune.graphs.walk import call_arguments, graph_of, walk

_BATCH = 128


class Trial:
    """Runs a model on data, operation by operation, with some of its blocks bypassed.

    Nothing is built for that, so that many choices can be tried.

    Args:
        model: a model with a graph, compiled with the loss if that is asked for.
        batches: from `batches_of`.
    """

    def __init__(self, model, batches):
        self._model, self._own, self._batches = model, graph_of(model), batches

    def loss(self, removed=()):
        """Return the mean loss on the data without some blocks, a float."""
        total, number = 0.0, 0
        for x, y, weight in self._batches:
            if y is None:
                raise ValueError("The loss needs targets: pass `data=(x, y)`.")
            outputs = self._outputs(x, removed)
            outputs = keras.tree.pack_sequence_as(self._own.output, outputs)
            y = keras.tree.map_structure(keras.ops.convert_to_tensor, y)
            try:
                loss = self._model.compute_loss(x, y, outputs, weight, training=False)
            except Exception as error:
                raise ValueError(
                    f"The loss {self._model.loss!r} could not be computed on the targets in "
                    f"`data`: {first_line(error)}"
                ) from error
            examples = keras.tree.flatten(x)[0].shape[0]
            total += float(keras.ops.convert_to_numpy(loss)) * examples
            number += examples
        return total / number

    def similarity(self, blocks):
        """Return, for each block, the mean cosine similarity of its input and output.

        The mean is over examples and positions; a position's channels are the vector.
        """
        sums, number = np.zeros(len(blocks)), 0
        wanted = {id(t) for block in blocks for t in (block.source, block.output)}
        for x, _, _ in self._batches:
            seen = {}

            def note(tensor, value, seen=seen):
                if id(tensor) in wanted:
                    seen[id(tensor)] = value
                return value

            self._outputs(x, (), note)
            examples = keras.tree.flatten(x)[0].shape[0]
            pairs = ((seen[id(b.source)], seen[id(b.output)]) for b in blocks)
            sums += examples * np.array([_cosine(*pair) for pair in pairs])
            number += examples
        return sums / number

    def _outputs(self, x, removed, look=lambda tensor, value: value):
        dead = {key for block in removed for key in block.inside}
        ends = {id(block.output): block for block in removed}
        sources, values = {id(block.source) for block in removed}, {}

        def step(node, given):
            if id(node) in dead or any(value is None for value in given):
                return [None] * len(node.outputs)
            args, kwargs = call_arguments(node, given)
            return keras.tree.flatten(node.operation(*args, **kwargs))

        def note(tensor, value):
            block = ends.get(id(tensor))
            if block is not None:
                value = values[id(block.source)]
                value = None if value is None else block.bypass(value)
            if id(tensor) in sources:
                values[id(tensor)] = value
            return look(tensor, value)

        try:
            return walk(self._model, x, step, note)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in self._own.inputs]
            raise ValueError(
                f"{self._model.name!r} could not be run on `data`; its inputs have the shapes "
                f"{shapes}. Received: {[tuple(leaf.shape) for leaf in x]}. {first_line(error)}"
            ) from error


def _cosine(source, output):
    """The mean over positions of the cosine similarity of two tensors, a float."""
    a, b = (keras.ops.cast(value, "float32") for value in (source, output))
    first = keras.config.image_data_format() == "channels_first" and len(a.shape) > 3
    axis = 1 if first else -1
    lengths = [keras.ops.sqrt(keras.ops.sum(v * v, axis=axis)) for v in (a, b)]
    product = keras.ops.maximum(lengths[0], 1e-12) * keras.ops.maximum(lengths[1], 1e-12)
    cosines = keras.ops.sum(a * b, axis=axis) / product
    # Where both are zero, as in padding, nothing was changed.
    cosines = keras.ops.where(lengths[0] + lengths[1] > 0, cosines, 1.0)
    return float(keras.ops.convert_to_numpy(keras.ops.mean(cosines)))


def batches_of(data, inputs):
    """Return data as a list of `(x, y, weight)`, `x` a list with a tensor for each input.

    Args:
        data: as in `remove_blocks`; None gives an empty list.
        inputs: list of the model's input tensors.

    Raises:
        ValueError: no batch in it, or not an array for each input.
    """
    if data is None:
        return []
    batches = [batch_of(part, inputs) for part in cut_data(data, len(inputs), _BATCH)]
    if not batches:
        raise ValueError("`data` has no batch in it.")
    return batches


def cut_data(data, inputs, size):
    """Yield the batches in data; of arrays they are tuples, of a dataset what it has.

    Args:
        data: an array, a list (of several inputs) or dict of arrays, `(x, y)`, `(x, y, weight)`, or
            an iterable of batches.
        inputs: int, how many the model has.
        size: int, examples in a batch that is cut from arrays.
    """
    is_pair = isinstance(data, tuple) and len(data) in (2, 3)
    several = isinstance(data, list) and inputs > 1
    if is_pair or several or isinstance(data, dict) or hasattr(data, "shape"):
        whole = data if is_pair else (data,)
        for start in range(0, len(keras.tree.flatten(whole)[0]), size):
            part = slice(start, start + size)
            yield keras.tree.map_structure(lambda array, part=part: array[part], whole)
    elif isinstance(data, keras.utils.PyDataset):
        yield from (data[i] for i in range(len(data)))
    else:
        yield from data


class _Kept(keras.utils.PyDataset):
    """The batches that an iterator has had."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, i):
        return self._batches[i]


def repeatable(data):
    """Return data that can be gone through again: of an iterator, its batches."""
    return _Kept(list(data)) if isinstance(data, Iterator) else data


def batch_of(batch, inputs):
    """Return one batch as `(x, y, weight)`; see `batches_of`."""
    pair = isinstance(batch, tuple | list) and len(batch) in (1, 2, 3)
    x, y, weight = (*batch, None, None)[:3] if pair else (batch, None, None)
    if isinstance(x, dict) and set(x) == {tensor.name for tensor in inputs}:
        x = [x[tensor.name] for tensor in inputs]
    x = keras.tree.flatten(x)
    if len(x) != len(inputs):
        raise ValueError(
            f"`data` must hold an array for each of the model's {len(inputs)} inputs. "
            f"Received: {len(x)}"
        )
    tensors = [keras.ops.convert_to_tensor(a, dtype=t.dtype) for a, t in zip(x, inputs)]
    return tensors, y, weight
