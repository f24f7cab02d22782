"""The optimizer that trains the centroids of a model's weights, inside the compiled step."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kprune._keras import backend, optimizers, tracking
from kprune.training.at_risk import CLUSTERS, ZEROS, held
from kprune.training.checkpoints import SavedAsWrapped
from kprune.training.clustering.assignment import nearest, sums

CODES = 127  # Multiples of a weight's scale, on either side of zero.


@dataclasses.dataclass(eq=False)
class Codebook:
    """The clusters of a weight, as training begins.

    Attributes:
        variable: the `keras.Variable`.
        values: float32 array of the clusters' values; the first is that of zero.
        indices: uint8 array of the variable's shape: the cluster of each entry.
        weights: float32 array of the variable's shape: what was sorted into the clusters.
    """

    variable: keras.Variable
    values: np.ndarray
    indices: np.ndarray
    weights: np.ndarray

    def on_grid(self):
        """Return the variable's value with the clusters' values, on the grid, in it."""
        values = ops.convert_to_tensor(self.values[self.indices])
        return round_to_grid(values, ops.convert_to_tensor(self.indices > 0))


class ClusteringOptimizer(SavedAsWrapped, keras.optimizers.Optimizer):
    """Wraps an optimizer so that some weights take the values of a few centroids only.

    Behind each weight there is a float one, which makes the wrapped optimizer's steps, and the
    centroids make steps of their own, by the same rule: the gradient of a centroid is the sum of
    its members' gradients (with SGD their mean, which is where SGD would take the members). After
    each step every entry takes the value of the centroid that is nearest to its float weight,
    rounded to a multiple of the weight's scale. Entries that were zero stay zero; in a weight that
    has some, others may become zero, and come back. The state is not saved: what is, is the
    wrapped optimizer's.

    Args:
        optimizer: the `keras.optimizers.Optimizer` to wrap, with no optimizer inside it.
        codebooks: list of `Codebook`; of those the ones that this optimizer trains are used.
    """

    wrapped_name = "inner_optimizer"
    unsaved = ("_centroid_optimizer",)

    def __init__(self, optimizer, codebooks):
        super().__init__(learning_rate=0.0, name="clustering")
        self.inner_optimizer = optimizer
        self._codebooks = list(codebooks)
        self._clusters = []
        # As the wrapped one, but that the learning rate is what that has at each step.
        config = {**optimizer.get_config(), "learning_rate": 0.0, "name": "centroids"}
        self._centroid_optimizer = type(optimizer).from_config(config)
        # On TensorFlow it would sum the gradients over replicas; they are summed when it gets them.
        optimizers.keep_gradients(self._centroid_optimizer)
        if optimizer.built:
            self.build(optimizers.trained_variables(optimizer))

    @tracking.untracked
    def build(self, variables):
        """Build the wrapped optimizer on `variables`, and the clusters of those it trains."""
        if self.built:
            return
        inner = self.inner_optimizer
        if not inner.built:
            inner.build(variables)
        optimizers.train(self, variables)
        trained = {id(variable) for variable in variables}
        own = [book for book in self._codebooks if id(book.variable) in trained]
        self._clusters = [_Clusters(self, book) for book in own]
        if self._clusters:
            self._centroid_optimizer.build([one.centroids for one in self._clusters])
        self.built = True

    def apply(self, grads, trainable_variables=None):
        """Update the weights with the wrapped optimizer, and the centroids; cluster them."""
        grads = list(grads)
        if not self.built:
            self.build(list(trainable_variables))
        trained = trainable_variables
        if trained is None:
            trained = optimizers.trained_variables(self)
        by_variable = dict(zip(optimizers.variable_keys(self, trained), grads))
        before = [backend.read(one.variable) + 0 for one in self._clusters]
        clustered = [one.variable for one in self._clusters]
        found = map(by_variable.get, optimizers.variable_keys(self, clustered))
        # SGD's steps are as long as the gradients: of sums over thousands of members it diverges.
        mean = isinstance(self.inner_optimizer, keras.optimizers.SGD)
        of_centroids = [one.gradients(each, mean) for one, each in zip(self._clusters, found)]
        rate = self.inner_optimizer.learning_rate
        with held(ZEROS, CLUSTERS):  # Entries that were zero stay zero, below.
            self.inner_optimizer.apply(grads, trainable_variables)
        if not self._clusters:
            return
        moved = [backend.read(one.variable) for one in self._clusters]
        of_centroids = backend.sum_over_replicas(of_centroids, after=moved)
        backend.assign_all([optimizers.learning_rate_variable(self._centroid_optimizer)], [rate])
        self._centroid_optimizer.apply(of_centroids, [one.centroids for one in self._clusters])
        updates = [
            pair
            for one, old, new in zip(self._clusters, before, moved)
            for pair in one.updates(new - old)
        ]
        backend.assign_all(*zip(*updates))

    @property
    def variables(self):
        own = [v for one in self._clusters for v in (one.weights, one.indices, one.centroids)]
        centroids = self._centroid_optimizer.variables if self._clusters else []
        return [*self.inner_optimizer.variables, *own, *centroids]

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        """Scale the loss as the wrapped optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        """Let the wrapped optimizer set the final values; cluster moving averages."""
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.inner_optimizer.use_ema and self._clusters:
            backend.assign_all(*zip(*[one.averaged() for one in self._clusters]))

    def get_config(self):
        """Return the wrapped optimizer's: the clusters are not in it."""
        return self.inner_optimizer.get_config()

    def __getattr__(self, name):
        # What the wrapped optimizer has and this has not, such as `beta_1`.
        if name.startswith("__") or "inner_optimizer" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner_optimizer, name)


class _Clusters:
    """The state of one clustered weight: its float weights, their clusters, the centroids."""

    def __init__(self, optimizer, codebook):
        self.variable = codebook.variable
        self.has_zeros = bool((codebook.indices == 0).any())
        used = codebook.values[1:] if len(codebook.values) > 1 else np.zeros(1)
        self.weights = self._state(optimizer, "weights", codebook.weights, "float32")
        self.indices = self._state(optimizer, "indices", codebook.indices, "uint8")
        self.centroids = self._state(optimizer, "centroids", used, "float32")

    def _state(self, optimizer, name, value, dtype):
        of_weight = value.shape == tuple(self.variable.shape)
        return optimizer.add_variable(
            shape=value.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(value, dtype),
            dtype=dtype,
            layout=optimizers.layout(self.variable) if of_weight else None,
            name=f"{self.variable.path.replace('/', '_')}_{name}",
        )

    def gradients(self, gradient, mean):
        """Return the gradients of the centroids: the sums of their members', or the means."""
        count = self.centroids.shape[0]
        if gradient is None:
            return ops.zeros((count,), "float32")
        gradient = ops.cast(backend.read(gradient), "float32")
        indices = ops.cast(backend.read(self.indices), "int32")
        found = sums(gradient, indices, count + 1)
        if mean:
            found = found / ops.maximum(sums(ops.ones_like(gradient), indices, count + 1), 1.0)
        return found[1:]

    def averaged(self):
        """Return (variable, value), the value that the variable has with each cluster's mean."""
        indices = ops.cast(backend.read(self.indices), "int32")
        value, count = (
            ops.cast(backend.read(self.variable), "float32"),
            self.centroids.shape[0] + 1,
        )
        sizes = ops.maximum(sums(ops.ones_like(value), indices, count), 1.0)
        is_kept = indices > 0
        means = ops.take(sums(value, indices, count) / sizes, indices)
        clustered = round_to_grid(ops.where(is_kept, means, 0.0), is_kept)
        return self.variable, ops.cast(clustered, self.variable.dtype)

    def updates(self, step):
        """Return (variable, value) pairs after the float weights made a step."""
        before = backend.read(self.weights)
        is_kept = before != 0
        weights = ops.where(is_kept, before + ops.cast(step, "float32"), 0.0)
        centroids = backend.read(self.centroids)
        values = ops.concatenate([ops.zeros((1,), "float32"), centroids])
        found = nearest(weights, values) if self.has_zeros else nearest(weights, centroids) + 1
        indices = ops.where(is_kept, found, 0)
        clustered = round_to_grid(ops.take(values, indices), indices > 0)
        return [
            (self.weights, weights),
            (self.indices, ops.cast(indices, "uint8")),
            (self.variable, ops.cast(clustered, self.variable.dtype)),
        ]


def round_to_grid(values, is_kept):
    """Round a tensor to multiples of a scale, as `grid`, but that what is kept is not 0.

    Args:
        values: float32 tensor.
        is_kept: bool tensor of the same shape; where it is False, `values` are 0.
    """
    scale = ops.max(ops.abs(values)) / CODES
    codes = ops.round(values / ops.where(scale > 0, scale, 1.0))
    smallest = ops.where(values < 0, -1.0, 1.0)
    return ops.where(ops.logical_and(is_kept, codes == 0), smallest, codes) * scale
