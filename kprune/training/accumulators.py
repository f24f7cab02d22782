"""What criteria accumulate in every step, beside the masks in the optimizer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kprune._keras import backend, optimizers
from kprune.training import gradients
from kprune.training.state import chain, loss_scale


class Accumulators(keras.Layer):
    """The accumulated values of the weights of some `Group`s, one float32 each.

    A layer, since Keras saves those that an optimizer has as attributes; plain Keras passes over
    them when it loads the file. Where a mean of squared gradients is wanted and the optimizer has
    one, it is that.

    Args:
        optimizer: the `PruningOptimizer` that is being built, to which the variables are added;
            None before that, when these only keep what is loaded.
        groups: list of its `Group`s.
        earlier: list of arrays, what they begin with; of other shapes, they begin with zeros.
    """

    def __init__(self, optimizer: Any = None, groups: Any = (), earlier: Any = ()) -> None:
        super().__init__(name="accumulators", trainable=False)
        own: list = []
        found = [
            [
                _of_weight(optimizer, group.setting.criterion, weight.variable, own, earlier)
                for weight in group.weights
            ]
            if group.setting.criterion.accumulates
            else None
            for group in groups
        ]
        # As attributes, variables would be tracked as weights of the layer.
        self._own, self._found = lambda: own, lambda: found
        self._loaded: Any = lambda: list(earlier)

    @property
    def own(self):
        """The variables that are no other state of the optimizer."""
        return self._own()

    def values(self):
        """Return what is accumulated, or waits to be, as a list of arrays."""
        return [ops.convert_to_numpy(variable) for variable in self.own] or self._loaded()

    def read(self, number):
        """Return the values of one group as a list of tensors; None if it accumulates nothing."""
        found = self._found()[number]
        return None if found is None else [backend.read(variable) for variable in found]

    def add(self, optimizer, grads, trainable_variables):
        """Accumulate the gradients of one step, of the weights as they are.

        Args:
            optimizer: the `PruningOptimizer`.
            grads: list of tensors, or None for some.
            trainable_variables: list of the variables that they are of.
        """
        own, variables, values = {id(variable) for variable in self.own}, [], []
        for group, found in zip(optimizer.groups, self._found()):
            if found is None:
                continue
            scale = loss_scale(optimizer.base_optimizer)
            of_group = gradients.of_group(optimizer, group, grads, trainable_variables)
            for variable, weight, gradient in zip(found, group.weights, of_group):
                if id(variable) in own:
                    gradient = ops.cast(gradient, "float32") / scale
                    # What overflowed is left out, as the step is.
                    gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
                    before = backend.read(variable)
                    value = ops.cast(backend.read(weight.variable), "float32")
                    variables.append(variable)
                    values.append(group.setting.criterion.accumulate(before, value, gradient))
        backend.assign_all(variables, values)

    def save_own_variables(self, store: Any) -> None:
        for i, variable in enumerate(self.own):
            store[str(i)] = variable

    def load_own_variables(self, store: Any) -> None:
        """Load what was accumulated; a file that has none of these weights leaves it as it is."""
        loaded = [np.asarray(store[str(i)]) for i in range(len(store.keys()))]
        if not self.own:
            self._loaded = lambda: loaded
        elif [value.shape for value in loaded] == [tuple(v.shape) for v in self.own]:
            for variable, value in zip(self.own, loaded):
                variable.assign(value)


def await_file(optimizers):
    """Have optimizers that are to be wrapped keep what is loaded before they are.

    `BackupAndRestore` loads a file when `fit` begins, into the optimizer that is not wrapped yet.
    """
    for optimizer in optimizers:
        if "accumulators" not in vars(optimizer):
            optimizer.accumulators = Accumulators()


def taken(optimizer):
    """Return what an optimizer has, for one that is to be built in its place; `Accumulators`."""
    found = vars(optimizer).get("accumulators")
    if not hasattr(optimizer, "base_optimizer"):
        vars(optimizer).pop("accumulators", None)  # Of `await_file`: it is plain again.
    return Accumulators(earlier=[] if found is None else found.values())


def _of_weight(optimizer, criterion, variable, own, earlier):
    """What is accumulated of one weight; a new variable is added to `own`."""
    if criterion.of_squares:
        for one in chain(optimizer.base_optimizer):
            moment = optimizers.mean_square(one, variable)
            if moment is not None:
                return moment
    known = earlier[len(own)] if len(own) < len(earlier) else None
    goes_on = known is not None and known.shape == tuple(variable.shape)
    own.append(
        optimizer.add_variable(
            shape=variable.shape,
            initializer=(lambda shape, dtype: ops.array(known, dtype)) if goes_on else "zeros",
            dtype="float32",
            layout=optimizers.layout(variable),
            name=f"{variable.path.replace('/', '_')}_accumulated",
        )
    )
    return own[-1]
