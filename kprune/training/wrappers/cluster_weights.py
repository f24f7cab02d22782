"""TFMOT's functions to cluster the weights of a model."""

import math
import warnings
from typing import Any

import keras

from kprune.training.clustering.centroids import CentroidInitialization
from kprune.training.mechanism import register
from kprune.training.wrappers.clustering_wrapper import (
    ClusterWeights,
    check_arguments,
    clusterable_variables,
    clusters_in,
    has_channels,
)
from kprune.training.wrappers.prunable import weights_are_known
from kprune.training.wrappers.wrapped_layers import WrappedLayers


def cluster_weights(
    to_cluster: Any,
    number_of_clusters: int,
    cluster_centroids_init: CentroidInitialization | str = CentroidInitialization.KMEANS_PLUS_PLUS,
    preserve_sparsity: bool = False,
    cluster_per_channel: bool = False,
    **kwargs: Any,
) -> Any:
    """Wrap a layer, or the layers of a model, so that their kernels are clustered in training.

    In a model or a list, every layer with a kernel is wrapped, and all others are left as they
    are: those whose kernel has no more entries than clusters, too, with a warning. The layers and
    weights are those of the model that is passed. A Sequential or functional model comes back as a
    new one, nested models included, and must be compiled; a model of any other class changes in
    place. Train a model before it is clustered.

    Example:

    ```python
    model = kprune.cluster_weights(model, number_of_clusters=16)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=3)
    model = kprune.strip_clustering(model)
    ```

    Args:
        to_cluster: a `keras.Layer`, a list of them, or a `keras.Model`.
        number_of_clusters: int > 1, how many values each kernel may have; with
            `preserve_sparsity` > 2, zero included.
        cluster_centroids_init: a `CentroidInitialization`.
        preserve_sparsity: whether zeros stay zero.
        cluster_per_channel: whether each output channel of a Conv2D has centroids of its own.
        **kwargs: for a single layer, the other arguments of `ClusterWeights`; else only
            `cluster_gradient_aggregation` of them counts.

    Returns:
        A `ClusterWeights`, a list, or a model.

    Raises:
        ValueError: an argument out of its range. The model is left as it was.
        TypeError: not a Keras 3 layer, list or model.
    """
    check_arguments(number_of_clusters, cluster_centroids_init, preserve_sparsity)
    arguments = {
        "number_of_clusters": number_of_clusters,
        "cluster_centroids_init": cluster_centroids_init,
        "preserve_sparsity": preserve_sparsity,
        "cluster_per_channel": cluster_per_channel,
    }
    if isinstance(to_cluster, keras.Layer) and not isinstance(to_cluster, keras.Model):
        arguments |= kwargs
        return _wrapped(to_cluster, arguments)
    name = "cluster_gradient_aggregation"
    arguments |= {name: kwargs[name]} if name in kwargs else {}

    def wrap(layer):
        return _wrapped(layer, arguments)

    if isinstance(to_cluster, list | tuple):
        return [CLUSTERING_WRAPPERS.install(layer, wrap) for layer in to_cluster]
    if isinstance(to_cluster, keras.Model):
        return CLUSTERING_WRAPPERS.install(to_cluster, wrap)
    raise TypeError(
        "`to_cluster` must be a Keras 3 layer, a list of layers, or a model. "
        f"Received: {to_cluster!r} (of type {type(to_cluster)})"
    )


def strip_clustering(model: keras.Model) -> keras.Model:
    """Return a model without `ClusterWeights`, with the centroids' values in its kernels.

    A model that has none comes back as it is. To store its weights as 8-bit codes
    (`export_tflite(..., quantize="codebook")`), round them to a grid first, with
    `kprune.training.cluster_once(model, number_of_clusters)`.

    Example:

    ```python
    model = kprune.strip_clustering(model)
    model.save("clustered.keras")  # opens without kprune
    ```

    Args:
        model: a `keras.Model`, or a layer.

    Raises:
        ValueError: not a Keras 3 model or layer.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(f"Expected a `keras.Model`. Received: {model!r} (of type {type(model)})")
    return CLUSTERING_WRAPPERS.remove(model)


class ClusteringWrappers(WrappedLayers):
    """Layers wrapped in `ClusterWeights`."""

    stripped = False  # `strip_clustering` does it, as in TFMOT.
    wrapper = ClusterWeights

    def describe(self, model):
        return [
            f"the layer {wrapper.layer.name!r} is wrapped in ClusterWeights "
            "(kprune.strip_clustering)"
            for wrapper in self.found_in(model)
        ]

    def write(self, wrapper):
        wrapper.write_clusters()


CLUSTERING_WRAPPERS = register(ClusteringWrappers())


def cluster_scope() -> Any:
    """Return a scope to load wrapped models in.

    TFMOT's name: Keras 3 finds the classes of kprune by itself once kprune is imported.
    """
    return keras.saving.custom_object_scope({"ClusterWeights": ClusterWeights})


def _wrapped(layer, arguments):
    """The layer wrapped, if it has something to cluster or may get it when it is built."""
    if isinstance(layer, keras.layers.InputLayer) or clusters_in(layer):
        return layer
    known = weights_are_known(layer)
    if known and not (variables := clusterable_variables(layer)):
        return layer
    if known and isinstance(layer, keras.layers.Conv2D):
        per_channel = arguments["cluster_per_channel"] and has_channels(layer)
        entries = math.prod(variables[0].shape[:-1] if per_channel else variables[0].shape)
        if entries <= arguments["number_of_clusters"]:
            warnings.warn(
                f"The layer {layer.name!r} is not clustered: its kernel has {entries} entries "
                f"{'a channel ' if per_channel else ''}for number_of_clusters="
                f"{arguments['number_of_clusters']}.",
                stacklevel=4,
            )
            return layer
    wrapper = ClusterWeights(layer, **arguments)
    if known:
        wrapper.build()
    return wrapper
