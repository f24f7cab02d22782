"""Each weight of a model in its turn, by what the layers before it make of the data."""

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from kprune._keras import backend
from kprune._keras.layers import flatten_layers
from kprune.oneshot.linear import linear_of
from kprune.oneshot.moments import measure_again, moments_of
from kprune.oneshot.reconstruct import Problem
from kprune.oneshot.report import WeightResult
from kprune.oneshot.stages import stages
from kprune.pruning.exact_count import lowest_pruned


class Pruner:
    """Visits the layers of a model, and prunes each."""

    def __init__(self, model, groups, method, batches, recalibrate):
        self._model, self._method = model, method
        self._batches, self._examples = batches, sum(len(first(x)) for x in batches)
        self._results, self._linear = {}, {}
        self._masks = {}  # From a variable's id to its mask, of whole channels.
        self._plans = {}  # From a variable's id to its `Weight`, pattern and how many units go.
        for one in groups:
            self._plan(one)
        self._norms = [
            layer
            for layer in flatten_layers(model)
            if recalibrate and isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
        ]  # fmt: skip

    def _plan(self, group):
        values = [backend.read(weight.variable) for weight in group.weights]
        masks = group.masks(values, group.setting.final_sparsity)
        for weight, mask in zip(group.weights, masks):
            linear = linear_of(weight)
            if linear is not None:
                self._linear.setdefault(id(linear.layer), []).append((weight, linear))
            if group.unit == "channels":
                self._masks[id(weight.variable)] = np.asarray(keras.ops.convert_to_numpy(mask))
            pattern = group.setting.pattern
            count = 0
            if group.unit == "weights":
                units = pattern.units(keras.ops.cast(mask, "float32"), weight.axes)
                count = int(keras.ops.convert_to_numpy(keras.ops.sum(units == 0)))
            self._plans[id(weight.variable)] = (weight, pattern, count, mask)

    def run(self):
        """Prune everything; return a list of `WeightResult`s."""
        wanted = {
            id(linear.layer): linear.layer for found in self._linear.values() for _, linear in found
        }
        wanted |= {id(layer): layer for layer in self._norms}
        stderr = Console(stderr=True)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            task = progress.add_task("pruning", total=len(wanted))

            def visit(layer, run):
                progress.update(task, description=layer.name)
                self._visit(layer, run)
                progress.advance(task)

            stages(self._model, self._batches, list(wanted.values()), visit)
        for weight, _, _, mask in self._plans.values():
            self._by_magnitude(weight, mask)
        return list(self._results.values())

    def _by_magnitude(self, weight, mask):
        """Apply a mask of magnitudes, or of channels, to what no product was seen of."""
        key, variable = id(weight.variable), weight.variable
        if key in self._results and key not in self._masks:
            return
        value = backend.read(variable)
        variable.assign(keras.ops.where(mask, value, keras.ops.zeros_like(value)))
        if key not in self._results:
            self._note(weight, "magnitude", None)

    def _note(self, weight, how, error):
        value = keras.ops.convert_to_numpy(weight.variable)
        self._results[id(weight.variable)] = WeightResult(
            weight.name, tuple(value.shape), how, float(np.mean(value == 0)), error
        )

    def _visit(self, layer, run):
        if isinstance(layer, keras.layers.BatchNormalization):
            if self._results:  # Before that, nothing is another one.
                measure_again(layer, run)
            return
        found = self._linear[id(layer)]
        moments = moments_of(found, run, self._examples)
        for (weight, linear), moment in zip(found, moments):
            if moment is not None:
                self._prune(weight, linear, moment)

    def _prune(self, weight, linear, moment):
        value = keras.ops.convert_to_numpy(weight.variable).astype("float32")
        bias = linear.bias if moment.has_bias and linear.bias is not None else None
        matrix = moment.blocks(linear.matrix(value))
        if bias is not None:
            row = keras.ops.convert_to_numpy(bias).astype("float32")
            matrix = np.concatenate([matrix, row.reshape(len(matrix), 1, -1)], axis=1)
        problem = Problem(matrix, moment.total, fixed=int(bias is not None))
        if problem.is_empty:
            return
        new = self._solved(weight, linear, moment, problem, matrix, bias)
        error = problem.error(new)
        if bias is not None:
            new, row = new[:, :-1], new[:, -1]
            bias.assign(row.reshape(bias.shape))
        weight.variable.assign(linear.weight(moment.joined(new)))
        self._note(weight, self._method, error)

    def _solved(self, weight, linear, moment, problem, matrix, bias):
        """The new matrices."""
        known = self._masks.get(id(weight.variable))
        fixed = int(bias is not None)

        def with_bias(mask):
            return np.pad(mask, [(0, 0), (0, fixed), (0, 0)], constant_values=True)

        if known is not None:
            mask = moment.blocks(linear.matrix(known), fill=True)
            mask = mask | ~mask.any(axis=(1,), keepdims=True)  # What makes no channels, later.
            mask = with_bias(mask)
            return problem.refit(mask) if self._method == "obs" else matrix * mask
        _, pattern, count, _ = self._plans[id(weight.variable)]

        def select(scores, share):
            scores = linear.weight(moment.joined(scores))
            units = pattern.units(keras.ops.convert_to_tensor(scores), weight.axes)
            (mask,) = lowest_pruned([units], round(share * count))
            mask = pattern.expand(mask, scores.shape, weight.axes)
            mask = np.asarray(keras.ops.convert_to_numpy(mask))
            return moment.blocks(linear.matrix(mask), fill=False)

        if self._method == "obs":
            return problem.solve(select)
        scores = problem.scores() if self._method == "wanda" else np.abs(matrix)
        return matrix * with_bias(select(scores[:, : scores.shape[1] - fixed], 1.0))


def first(x):
    """Return the first array in a structure of them."""
    return keras.tree.flatten(x)[0]
