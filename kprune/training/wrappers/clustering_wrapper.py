"""Layers whose kernels are clustered while they are trained: TFMOT's, on Keras 3."""

import abc
import enum
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from kprune._keras import backend
from kprune._keras.layers import flatten_layers
from kprune._keras.wrapper import ReplacingWrapper
from kprune._system.type_aliases import Tensor
from kprune.graphs.weights import weights_of
from kprune.training.clustering.assignment import nearest, sums
from kprune.training.clustering.centroids import CentroidInitialization, initial_centroids

# A clustered depthwise kernel loses accuracy that training does not bring back (TFMOT).
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


class GradientAggregation(enum.StrEnum):
    """What the gradient of a centroid is: the sum or the mean of its members'; TFMOT's names."""

    SUM = "GradientAggregation.SUM"
    AVG = "GradientAggregation.AVG"


class ClusterableLayer(abc.ABC):
    """Says which weights of a layer of your own `cluster_weights` clusters.

    Without it those are clustered that `kprune.Pruning` would prune. A layer may also just have
    the method.

    Example:

    ```python
    class Scaled(keras.layers.Layer, kprune.training.ClusterableLayer):
        def build(self, input_shape):
            self.mix = self.add_weight(shape=(input_shape[-1], 64), name="mix")

        def call(self, inputs):
            return inputs @ self.mix

        def get_clusterable_weights(self):
            return [("mix", self.mix)]
    ```
    """

    @abc.abstractmethod
    def get_clusterable_weights(self) -> list[tuple[str, keras.Variable]]:
        """Return a list of `(name, keras.Variable)`; the layer is built."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="kprune")
class ClusterWeights(ReplacingWrapper):
    """Clusters the kernels of the layer it wraps.

    In the forward pass every entry of a kernel takes the value of the centroid that is nearest to
    it. The centroids are weights of this layer, trained by the model's optimizer with the sum of
    their members' gradients. The kernels stay as they are behind them and are trained, too, by the
    gradients of the values they took, so that entries change their clusters. All of it is saved
    with the model, and training goes on from it. `kprune.strip_clustering` writes the centroids'
    values into the kernels.

    Han, Mao and Dally, "Deep Compression" (2016); the API is that of TensorFlow Model Optimization.

    Args:
        layer: the `keras.Layer`, built or not.
        number_of_clusters: int > 1, how many values each kernel may have; with
            `preserve_sparsity` > 2, zero included.
        cluster_centroids_init: a `CentroidInitialization`.
        preserve_sparsity: whether one centroid is and stays zero, and with it the entries that
            are nearest to zero when training begins.
        cluster_per_channel: whether each output channel of a Conv2D has centroids of its own;
            other layers have them in common.
        cluster_gradient_aggregation: a `GradientAggregation`.
        **kwargs: those of `keras.Layer`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        layer: keras.Layer,
        number_of_clusters: int,
        cluster_centroids_init: CentroidInitialization
        | str = CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity: bool = False,
        cluster_per_channel: bool = False,
        cluster_gradient_aggregation: GradientAggregation | str = GradientAggregation.SUM,
        **kwargs: Any,
    ) -> None:
        self.cluster_centroids_init = check_arguments(
            number_of_clusters, cluster_centroids_init, preserve_sparsity
        )
        if not isinstance(layer, keras.Layer):
            raise ValueError(f"`layer` must be a keras.Layer. Received: layer={layer!r}")
        kwargs.setdefault("name", f"cluster_{layer.name}")
        super().__init__(layer, **kwargs)
        self.number_of_clusters = int(number_of_clusters)
        self.preserve_sparsity = bool(preserve_sparsity)
        self.cluster_per_channel = bool(cluster_per_channel) and has_channels(layer)
        self.cluster_gradient_aggregation = GradientAggregation(cluster_gradient_aggregation)
        self._kernels: list[_Kernel] = []
        self._has_clusters = False

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Build the wrapped layer, if it is not, and the centroids of its kernels."""
        if self._has_clusters:
            return
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        self._kernels = [
            _Kernel(self, variable, position)
            for position, variable in enumerate(clusterable_variables(self.layer))
        ]
        self._has_clusters = True

    def replaced_values(self) -> tuple[list[keras.Variable], list[Tensor]]:
        """Return the kernels, and their clustered values."""
        return (
            [kernel.variable for kernel in self._kernels],
            [kernel.clustered() for kernel in self._kernels],
        )

    def write_clusters(self) -> None:
        """Write the centroids' values into the kernels themselves."""
        for kernel in self._kernels:
            kernel.variable.assign(kernel.clustered())

    def get_config(self) -> dict[str, Any]:
        """Return all arguments, serializable."""
        return {
            **super().get_config(),
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": self.cluster_centroids_init.value,
            "preserve_sparsity": self.preserve_sparsity,
            "cluster_per_channel": self.cluster_per_channel,
            "cluster_gradient_aggregation": self.cluster_gradient_aggregation.value,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Make a wrapper from what `get_config` returned."""
        layer = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects=custom_objects
        )
        return cls(**{**config, "layer": layer})


class _Kernel:
    """A clustered variable of a wrapped layer, with its centroids."""

    def __init__(self, wrapper, variable, position):
        self.variable, self.wrapper = variable, wrapper
        self.number = wrapper.number_of_clusters
        channels = (variable.shape[-1],) if wrapper.cluster_per_channel else ()
        self.centroids = wrapper.add_weight(
            name=f"centroids_{position}",
            shape=(self.number, *channels),
            dtype="float32",
            initializer=self._initial,
            autocast=False,
        )
        self.is_kept = None
        if wrapper.preserve_sparsity:
            self.is_kept = wrapper.add_weight(
                name=f"kept_{position}",
                shape=variable.shape,
                dtype="bool",
                initializer=self._initially_kept,
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )

    def _initial(self, shape, dtype=None):
        """The initial centroids, of the value that the variable has by the time it has one."""
        if not backend.is_concrete():
            return ops.zeros(shape, dtype)  # Keras works out shapes; this comes again.
        value = _numpy(self.variable)
        columns = value.reshape(-1, value.shape[-1]).T if len(shape) == 2 else [value]
        arguments = self.number, self.wrapper.cluster_centroids_init, self.wrapper.preserve_sparsity
        found = np.stack([initial_centroids(column, *arguments) for column in columns], -1)
        return ops.convert_to_tensor(found.reshape(shape), dtype)

    def _initially_kept(self, shape, dtype=None):
        if not backend.is_concrete():
            return ops.ones(shape, dtype)
        value, centroids = _numpy(self.variable), _numpy(self.centroids)
        return ops.convert_to_tensor(
            np.abs(value - centroids[0]) > _nearest_other(value, centroids)
        )

    def clustered(self):
        """Return the clustered value; gradients go to the centroids, and straight through."""
        value = ops.cast(backend.read(self.variable), "float32")
        centroids = backend.read(self.centroids)
        if self.is_kept is not None:
            value = ops.where(backend.read(self.is_kept), value, 0.0)
        fixed = np.ones(self.centroids.shape, "float32")
        if self.is_kept is not None:
            fixed[0] = 0  # The first centroid is zero, and stays.
        # A product, since TensorFlow's gradient of a `take` alone is sparse, and slow to apply.
        centroids = centroids * ops.convert_to_tensor(fixed)
        indices = ops.stop_gradient(nearest(ops.stop_gradient(value), ops.stop_gradient(centroids)))
        if self.is_kept is not None:
            indices = self._zero_where_not_kept(indices)
        flat = ops.reshape(centroids, (-1,))
        if self.wrapper.cluster_gradient_aggregation == GradientAggregation.AVG:
            counts = sums(ops.ones_like(value), indices, flat.shape[0])
            share = flat / ops.maximum(ops.stop_gradient(counts), 1.0)
            flat = share + ops.stop_gradient(flat - share)
        clustered = ops.take(flat, indices) + (value - ops.stop_gradient(value))
        return ops.cast(clustered, self.variable.dtype)

    def _zero_where_not_kept(self, indices):
        """The index of the zero centroid, of a channel's own, where a weight is held at zero."""
        per_channel = len(self.centroids.shape) == 2
        zero = ops.arange(self.centroids.shape[1], dtype="int32") if per_channel else 0
        return ops.where(backend.read(self.is_kept), indices, zero)


def _nearest_other(value, centroids):
    """The distance of each entry to the nearest centroid but the first."""
    return np.min([np.abs(value - one) for one in centroids[1:]], axis=0)


def _numpy(variable):
    return ops.convert_to_numpy(ops.cast(backend.read(variable), "float32"))


def check_arguments(number_of_clusters, init, preserve_sparsity):
    """Raise unless the arguments of `ClusterWeights` are sound; return the initialization."""
    if isinstance(number_of_clusters, bool) or not isinstance(number_of_clusters, int | np.integer):
        raise ValueError(
            "`number_of_clusters` must be an integer. "
            f"Received: number_of_clusters={number_of_clusters!r}"
        )
    fewest = 2 if preserve_sparsity else 1
    if number_of_clusters <= fewest:
        why = ", of which one is zero (preserve_sparsity)" if preserve_sparsity else ""
        raise ValueError(
            f"`number_of_clusters` must be greater than {fewest}{why}. "
            f"Received: number_of_clusters={number_of_clusters!r}"
        )
    try:
        return CentroidInitialization(init)
    except ValueError:
        known = [one.value for one in CentroidInitialization]
        raise ValueError(
            f"`cluster_centroids_init` must be one of {known}. Received: {init!r}"
        ) from None


def has_channels(layer):
    """Whether `cluster_per_channel` is for this layer, as in TFMOT."""
    return isinstance(layer, keras.layers.Conv2D) and not isinstance(layer, _DEPTHWISE)


def clusterable_variables(layer):
    """Return the variables of a built layer that `ClusterWeights` clusters."""
    if hasattr(layer, "get_clusterable_weights"):
        return [variable for _, variable in layer.get_clusterable_weights()]
    return [
        weight.variable
        for weight in weights_of(layer)
        if weight.reason is None
        and weight.variable.name != "depthwise_kernel"
        and not isinstance(weight.layer, _DEPTHWISE)
    ]


def clusters_in(layer):
    """Return the `ClusterWeights` in a layer or model, itself included."""
    return [part for part in flatten_layers(layer) if isinstance(part, ClusterWeights)]
