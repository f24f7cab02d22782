"""How `ClusteringOptimizer`s get into a model for a `fit`, and off it again."""

import contextlib

import keras
from keras import ops

from kprune._keras import backend, legacy_h5, optimizers
from kprune.graphs.weights import weights_of
from kprune.training.at_risk import CLUSTERS, unwatch
from kprune.training.clustering.optimizer import ClusteringOptimizer
from kprune.training.mechanism import Mechanism, register
from kprune.training.optimizers import all_optimizers_in, replace_innermost


class ClusteredOptimizers(Mechanism):
    """The optimizers of a model, wrapped so that they train centroids."""

    def install(self, model, codebooks):
        """Wrap the optimizers of a model for a list of `Codebook`s."""
        with backend.variable_scope(model):
            _wrap(model, codebooks)
        backend.recompile(model)

    def describe(self, model):
        if not any(isinstance(one, ClusteringOptimizer) for one in all_optimizers_in(model)):
            return []
        return [f"{model.name!r} is being clustered (WeightClustering, in a `fit` cut short)"]

    def remove(self, model):
        remove_clustering(model)
        return model


CLUSTERED_OPTIMIZERS = register(ClusteredOptimizers())


def remove_clustering(model: keras.Model) -> bool:
    """Let the weights of a model be trained one by one again; return whether they were not."""
    for weight in weights_of(model):
        unwatch(weight.variable, CLUSTERS)
    found = _unwrap(model)
    if found:
        backend.recompile(model)
    return bool(found)


def _wrap(model, codebooks):
    """Wrap the optimizers of a model: all that it holds, each once.

    Those inside others are wrapped, a LossScaleOptimizer's say, which get the true gradients.
    """
    wrapped = {}

    def wrap(optimizer):
        if isinstance(optimizer, ClusteringOptimizer):
            return optimizer
        if id(optimizer) not in wrapped:
            wrapped[id(optimizer)] = ClusteringOptimizer(optimizer, codebooks)
        return wrapped[id(optimizer)]

    _replace(model, wrap)


def _unwrap(model):
    """Unwrap the optimizers of a model; return the `ClusteringOptimizer`s that wrapped them."""
    found = {}

    def unwrap(optimizer):
        if not isinstance(optimizer, ClusteringOptimizer):
            return optimizer
        found[id(optimizer)] = optimizer
        return optimizer.inner_optimizer

    _replace(model, unwrap)
    return list(found.values())


def _replace(model, replacement):
    replace_innermost(model, replacement, ClusteringOptimizer)
    for holder in all_optimizers_in(model):
        if isinstance(holder, keras.optimizers.LossScaleOptimizer):
            vars(holder).pop("save_own_variables", None)
            if isinstance(holder.inner_optimizer, ClusteringOptimizer):
                holder.save_own_variables = _SavesPlain(holder)


@contextlib.contextmanager
def _without_clusters(model):
    """A scope in which a model's optimizers are those that were wrapped."""
    wrapped = {id(one.inner_optimizer): one for one in _unwrap(model)}
    try:
        yield
    finally:
        _replace(model, lambda optimizer: wrapped.get(id(optimizer), optimizer))


legacy_h5.save_within(_without_clusters)


class _SavesPlain:
    """A LossScaleOptimizer's `save_own_variables` without the clusters of what is inside it."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __call__(self, store):
        optimizer = self.optimizer
        plain = [
            *optimizers.own_variables(optimizer),
            *optimizer.inner_optimizer.inner_optimizer.variables,
        ]
        for i, variable in enumerate(plain):
            store[str(i)] = ops.convert_to_numpy(variable)
