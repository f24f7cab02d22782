"""From a point's model and a step to the next model: channels, zeros, training."""

import contextlib
import dataclasses
import time
import warnings

import keras
import numpy as np

from kprune._keras.compiling import compile_like
from kprune._keras.graph import is_made_from_graph
from kprune._system.errors import first_line
from kprune.graphs.weights import count_zeros, weights_of
from kprune.oneshot import prune_once
from kprune.pruning.allocation import Global
from kprune.search.latency import LatencyModel
from kprune.search.points import Impossible
from kprune.structured import Channels, prune_channels, recalibrate_batchnorm, shrink
from kprune.structured.widths import cut_to_widths
from kprune.targets import for_target, prepare
from kprune.targets.channels import ROUND_TO
from kprune.training.clustering.installing import remove_clustering
from kprune.training.clustering.weight_clustering import WeightClustering, cluster_once
from kprune.training.hold_zeros import HoldZeros
from kprune.training.pruning import Pruning
from kprune.training.quantization_aware import QuantizationAware
from kprune.training.requests import unmet
from kprune.training.strip import find_pruning, strip_pruning
from kprune.training.target_layers import layers_for


class Maker:
    """Makes the models that steps ask for.

    Args:
        target: a `Target`.
        fit: function `fit(model, callbacks)`, or None for no training.
        like: the user's model, by which new ones are compiled.
        examples: `Examples`, or None; without `fit` they are what models are pruned by.
        dense: function to the dense model, of which latency is measured where that is the budget.
        everywhere: whether zeros go into all weights, for the size, or only where the target has
            kernels for them.

    Attributes:
        trains: bool, whether there is a `fit`.
        fitted: seconds that the last model took in it.
    """

    def __init__(self, target, fit, like, examples, dense, everywhere):
        self.trains = fit is not None
        self._dense, self._latency = dense, None
        self._target, self._fit, self._like = target, fit, like
        self._examples, self._everywhere = examples, everywhere
        self.fitted = 0.0

    def __call__(self, step, parent, model):
        """Return the model of a step.

        Args:
            step: a `Step`.
            parent: the `Step` that `model` came of; with no `fit` that of the dense model.
            model: a model of its own, which may change.

        Raises:
            Impossible: the model has not so much to remove.
            ValueError: `fit` does not train it.
        """
        self.fitted = 0.0
        with _or_impossible():
            if step.prepared and not parent.prepared:
                model, _ = prepare(model, self._target)
            if self._fit is None:
                return self._at_once(step, parent, model)
            model = self._smaller(model, step, step.channels / parent.channels)
            model = self._of_its_class(model)
            pruning = self._pruning(step, model)
        compile_like(model, self._like)
        # All but the file, and training for its rounding, which comes after.
        own = dict.fromkeys(("parent", "quantize", "clusters", "aware"))
        if dataclasses.replace(step, **own) != dataclasses.replace(parent, **own):
            self._train(model, pruning)
            model = _stripped(model)
            _check_reached(model, pruning)
        if step.clusters and step.clusters != parent.clusters:
            self._train(model, [WeightClustering(step.clusters)])
            remove_clustering(model)
            cluster_once(model, step.clusters)
        if step.aware:
            aware = QuantizationAware(activations=step.quantize != "dynamic")
            self._train(model, [*_holding(model), aware])
            model = _stripped(model)
        return model

    def _smaller(self, model, step, left):
        """The model without some channels, so that this share of it is left; trained by no one."""
        if step.widths:
            model = cut_to_widths(model, step.widths)
        if left == 1:
            return model
        if step.by_latency:
            return prune_channels(model, latency=left, latency_model=self._times())
        if not step.depth:
            return prune_channels(model, flops=left)
        x = self._examples.packed(self._examples.calibration)
        data = x, self._examples.calibration_labels
        return prune_channels(model, flops=left, depth=True, data=data, loss=self._like.loss)

    def _times(self):
        """The latency of the dense model's cuts, measured once."""
        if self._latency is None:
            self._latency = LatencyModel(self._dense(), self._target)
        return self._latency

    def _of_its_class(self, model):
        """A model that trains by the user's `train_step`, where there is one."""
        kind = type(self._like)
        if type(model) is kind or kind.train_step is keras.Model.train_step:
            return model
        try:
            if is_made_from_graph(kind):
                return kind(model.inputs, model.outputs, name=model.name)
        except Exception as error:
            why = first_line(error)
        else:
            why = "it is not made from inputs and outputs"
        raise Impossible(
            f"{kind.__name__} has a `train_step` of its own, and no smaller model of its class "
            f"could be made: {why}. Let `fit` make one from the model that it is given."
        )

    def _pruning(self, step, model):
        if step.layers:
            return [Pruning(layers=_still_faster(model, self._target, step.layers))]
        if not step.sparsity:
            return []
        if self._everywhere:
            return [Pruning(step.sparsity, allocation=Global())]
        layers = layers_for(model, self._target, step.sparsity)
        return [Pruning(step.sparsity, layers=layers)]

    def _train(self, model, callbacks):
        before, start = model.get_weights(), time.perf_counter()
        self._fit(model, callbacks)
        self.fitted += time.perf_counter() - start
        left_out = [type(one).__name__ for one in callbacks if one.model is not model]
        if left_out:
            raise ValueError(
                f"`fit` has not trained the model with its callbacks ({', '.join(left_out)}): call "
                "model.fit(..., callbacks=callbacks) in it, on the model that it is given."
            )
        if all(map(np.array_equal, before, model.get_weights())):
            raise ValueError(
                "`fit` has left the weights as they were: call model.fit(..., callbacks=callbacks)"
                " in it, on the model that it is given."
            )

    def _at_once(self, step, parent, model):
        data = self._examples.packed(self._examples.calibration)
        left = step.channels / parent.channels
        if left < 1:
            share = 1 - left**0.5  # FLOPs go with both the channels made and those taken in.
            prune_once(model, share, data, pattern=Channels(round_to=ROUND_TO))
            model = shrink(model)
        if step.widths:
            model = cut_to_widths(model, step.widths)
            with contextlib.suppress(ValueError):  # It has no batch normalization.
                recalibrate_batchnorm(model, data)
        if step.layers:
            layers = _still_faster(model, self._target, step.layers)
            prune_once(model, 0.0, data, layers={**layers, "*": None})
        if step.sparsity > parent.sparsity and self._everywhere:
            prune_once(model, step.sparsity, data, allocation=Global())
        elif step.sparsity > parent.sparsity:
            layers = layers_for(model, self._target, step.sparsity)
            prune_once(model, step.sparsity, data, layers=layers)
        if step.clusters and step.clusters != parent.clusters:
            cluster_once(model, step.clusters)
        return model


def _still_faster(model, target, sparsities):
    """Return `layers` of `Pruning` for the layers that a target has kernels for, as wide as now.

    Raises:
        ValueError: there is none.
    """
    chosen = for_target(model, target)
    return {
        name: {"sparsity": share, "pattern": chosen[name]["pattern"]}
        for name, share in sparsities.items()
        if name in chosen
    }


@contextlib.contextmanager
def _or_impossible():
    with warnings.catch_warnings():  # The points say what was reached.
        warnings.filterwarnings(
            "ignore", ".*(was asked for and|had the padding|would leave fewer channels)"
        )
        try:
            yield
        except ValueError as error:
            raise Impossible(str(error)) from error


def _check_reached(model, pruning):
    """Raise where `fit` ended, or put weights back, before the zeros that were asked for."""
    short = unmet(model) if pruning else []
    if short:
        raise ValueError(
            "`fit` ended before the zeros that were asked for were there: "
            f"{'; '.join(map(str, short))}. Put callbacks that stop early or select an epoch into "
            "kprune.after_pruning."
        )


def _stripped(model):
    return strip_pruning(model) if find_pruning(model) else model


def _holding(model):
    kernels = [weight for weight in weights_of(model) if weight.is_kernel]
    return [HoldZeros()] if count_zeros(kernels) else []
