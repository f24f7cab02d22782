"""Each weight of a model in its turn, by what the layers before it make of the data."""

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from kprune._keras import backend
from kprune._keras.layers import flatten_layers
from kprune.oneshot.channel_choice import ChannelChoice
from kprune.oneshot.linear import linear_of
from kprune.oneshot.moments import measure_again, moments_of
from kprune.oneshot.reconstruct import problem_of
from kprune.oneshot.report import WeightResult
from kprune.oneshot.stages import stages
from kprune.pruning.exact_count import lowest_pruned


class Pruner:
    """Visits the layers of a model, and prunes each."""

    def __init__(self, model, groups, method, batches, recalibrate):
        self._model, self._method = model, method
        self._batches, self._examples = batches, sum(len(first(x)) for x in batches)
        self._groups, self._results, self._linear = groups, {}, {}
        self._masks = {}  # From a variable's id to its mask, of whole channels.
        self._plans = {}  # From a variable's id to its `Weight`, pattern and how many units go.
        self._norms = [
            layer
            for layer in flatten_layers(model)
            if recalibrate and isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
        ]  # fmt: skip

    def _masks_of(self, group, follow):
        """The mask of each weight of a group: by magnitude, or of channels chosen on the data."""
        values = [backend.read(weight.variable) for weight in group.weights]
        sparsity = group.setting.final_sparsity
        if group.unit != "channels" or self._method == "magnitude":
            return group.masks(values, sparsity)
        updates = self._method == "obs"
        choice = ChannelChoice(group, group.kept(values, sparsity), self._examples, updates)
        stages(self._model, self._batches, choice.layers, follow(choice.layers, choice.visit))
        choice.finish()
        return group.spread([keras.ops.convert_to_tensor(one) for one in choice.kept])

    def _plan(self, group, masks):
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
        stderr = Console(stderr=True)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:

            def follow(layers, visit):
                task = progress.add_task("pruning", total=len(layers))

                def shown(layer, run):
                    progress.update(task, description=layer.name)
                    visit(layer, run)
                    progress.advance(task)

                return shown

            for group in self._groups:
                self._plan(group, self._masks_of(group, follow))
            wanted = {
                id(layer): layer
                for layer in [
                    *(linear.layer for found in self._linear.values() for _, linear in found),
                    *self._norms,
                ]
            }
            layers = list(wanted.values())
            stages(self._model, self._batches, layers, follow(layers, self._visit))
        for weight, _, _, mask in self._plans.values():
            self._mask(weight, mask)
        return list(self._results.values())

    def _mask(self, weight, mask):
        """Apply a mask of magnitudes to what no product was seen of, or one of channels."""
        key, variable = id(weight.variable), weight.variable
        found = self._results.get(key)
        if found is not None and key not in self._masks:
            return
        value = backend.read(variable)
        variable.assign(keras.ops.where(mask, value, keras.ops.zeros_like(value)))
        how = "magnitude" if key not in self._masks else self._method
        self._note(weight, *((how,) if found is None else (how, found.error, found.singular)))

    def _note(self, weight, how, error=None, singular=False):
        value = keras.ops.convert_to_numpy(weight.variable)
        self._results[id(weight.variable)] = WeightResult(
            weight.name, tuple(value.shape), how, float(np.mean(value == 0)), error, singular
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
        matrix, bias, problem = problem_of(weight, linear, moment)
        if problem.is_empty:
            return
        new = self._solved(weight, linear, moment, problem, matrix, bias)
        error = problem.error(new)
        if bias is not None:
            new, row = new[:, :-1], new[:, -1]
            bias.assign(row.reshape(bias.shape))
        weight.variable.assign(linear.weight(moment.joined(new)))
        self._note(weight, self._method, error, problem.singular)

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
