"""Weight sharing: each weight of a model takes a few values only, which are trained together."""

import dataclasses
import numbers

import keras
import numpy as np
from keras import ops

from kprune import _backend, selection
from kprune.callbacks import check_finite
from kprune.optimizer import PruningOptimizer

MOST_CLUSTERS = 255  # Zero is one more, and 8 bits hold 256 numbers.
CODES = 127  # On either side of zero.
_ITERATIONS = 1000
_SAME_SHARE = 1e-3


class WeightSharing(keras.callbacks.Callback):
    """Shares weights during `model.fit`, the second stage of Deep Compression.

    At the start, the values other than zero of each kernel are sorted into clusters by k-means,
    and each becomes the centroid of its cluster. From then on what is trained are the centroids:
    after every optimizer step, inside the compiled step, the members of a cluster become their
    mean. Zeros stay exactly zero without a mask. At the end of `fit` the centroids are rounded to
    multiples of a scale of their kernel's, -127 to 127 times: with 8 bits for each weight,
    `kprune.export_tflite(..., quantize="codebook")` stores exactly the values that the model
    computes with.

    Prune first, and share in a `fit` of its own. Weights are shared after every step, so any
    checkpoint is, and it is plain Keras. A `fit` that fails leaves the sharing in the model: the
    next `fit` with this callback begins anew, and `kprune.strip_pruning` takes it off.

    Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained
    quantization and Huffman coding" (2016).

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model = kprune.strip_pruning(model)
    model.fit(x, y, epochs=3, callbacks=[kprune.WeightSharing(16)])
    kprune.export_tflite(model, "model.tflite", quantize="codebook")
    ```

    Args:
        clusters: int in [1, 255], how many values other than zero each kernel may have; None
            for the layers only that the dict `layers` gives a number.
        layers: which layers, as in `Pruning`; all by default. In a dict the values are: None (not
            shared), or a number of clusters. Layers that match none get `clusters`.

    Raises:
        ValueError: an argument out of its range. At the start of `fit`: a model that is not
            built, nothing to share, `layers` that matches nothing, weights that are NaN or
            infinite, pruning that is not done; the model is left as it was.
    """

    def __init__(self, clusters=16, layers=None):
        super().__init__()
        check_clusters(clusters, layers)
        self.clusters, self.layers = clusters, layers
        self._installed = False

    def on_train_begin(self, logs=None):
        remove_sharing(self.model)  # What an interrupted `fit` may have left.
        self._installed = False

    def on_epoch_begin(self, epoch, logs=None):
        # Not earlier: `BackupAndRestore` and the like restore the model in `on_train_begin`.
        if not self._installed:
            _check_pruned(self.model)
            for codebook in _codebooks(self.model, self.clusters, self.layers):
                codebook.variable.assign(codebook.shared())
                codebook.variable.constraint = _Shared(codebook)
            _backend.recompile(self.model)
            self._installed = True

    def on_epoch_end(self, epoch, logs=None):
        _check_pruned(self.model)  # `Pruning` may have come after this callback.
        check_finite([w for w in selection.weights(self.model) if _constraint(w) is not None])

    def on_train_end(self, logs=None):
        for weight in selection.weights(self.model):
            constraint = _constraint(weight)
            if constraint is not None:
                # Averages of an optimizer with `use_ema`, which are not shared, may be in it.
                value = constraint(_backend.read(weight.variable))
                weight.variable.assign(on_grid(ops.convert_to_numpy(value)))
        remove_sharing(self.model)


def share_weights(model, clusters=16, layers=None):
    """Share the weights of a model once, without training.

    Weights that are shared already, by as many clusters or fewer, keep their values, but for the
    rounding to multiples of a scale that ends `WeightSharing`.

    Example:

    ```python
    kprune.sharing.share_weights(model, clusters=64)
    ```

    Args:
        model: a built `keras.Model`.
        clusters: as of `WeightSharing`.
        layers: as of `WeightSharing`.

    Raises:
        ValueError: as `WeightSharing`; the model is left as it was.
    """
    check_clusters(clusters, layers)
    for codebook in _codebooks(model, clusters, layers):
        codebook.variable.assign(on_grid(codebook.shared()))


def remove_sharing(model):
    """Let the weights of a model be trained one by one again; return whether they were not."""
    found = [weight for weight in selection.weights(model) if _constraint(weight) is not None]
    for weight in found:
        weight.variable.constraint = weight.variable.constraint.previous
    if found:
        _backend.recompile(model)
    return bool(found)


def is_shared(model):
    """Whether the weights of a model, or of a layer, are trained together now."""
    return any(_constraint(weight) is not None for weight in selection.weights(model))


def check_clusters(clusters, layers=None):
    """Raise unless `clusters` and a dict `layers` hold numbers of clusters."""
    numbers_asked = {"clusters": clusters}
    if isinstance(layers, dict):
        numbers_asked |= {f"layers[{key!r}]": value for key, value in layers.items()}
    for name, value in numbers_asked.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= MOST_CLUSTERS):
            raise ValueError(
                f"`{name}` must be an int in [1, {MOST_CLUSTERS}], or None. "
                f"Received: {name}={value!r}"
            )
    if not any(value is not None for value in numbers_asked.values()):
        raise ValueError(
            "Give a number of `clusters`, such as kprune.WeightSharing(16), or a dict `layers` "
            f"with one. Received: clusters={clusters!r}, layers={layers!r}"
        )


def kmeans(values, clusters):
    """Return the centroids of k-means, ascending; Lloyd's algorithm.

    The initialization is linear, as in Deep Compression, but for the gap that magnitude pruning
    leaves around zero: no centroid begins there, where it would have no members.

    Args:
        values: float array of rank 1, not empty.
        clusters: int; where there are no more distinct values than that, they are the centroids.

    Returns:
        float64 array of at most `clusters` centroids, each of a cluster that has members.
    """
    ordered = np.sort(values).astype("float64")
    distinct = ordered[np.flatnonzero(np.diff(ordered, prepend=-np.inf))]
    if len(distinct) <= clusters:
        return distinct
    sums = np.concatenate([[0], np.cumsum(ordered)])
    centroids, ends = _linear(ordered, clusters), None
    for _ in range(_ITERATIONS):
        last, ends = ends, np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        if last is not None and np.array_equal(last, ends):
            break
        edges = np.concatenate([[0], ends, [len(ordered)]])
        counts = np.diff(edges)
        # A cluster without members stays where it is.
        centroids = np.where(counts, np.diff(sums[edges]) / np.maximum(counts, 1), centroids)
    return centroids[counts > 0]


def _linear(ordered, clusters):
    """Spread centroids evenly over sorted values and not over the gap around zero."""
    negatives = int(np.searchsorted(ordered, 0))
    if negatives in (0, len(ordered)):
        return np.linspace(ordered[0], ordered[-1], clusters)
    last, first = ordered[negatives - 1], ordered[negatives]
    spread = np.linspace(ordered[0], ordered[-1] - (first - last), clusters)
    return np.where(spread > last, spread + (first - last), spread)


def on_grid(values):
    """Round values to the nearest multiples of a scale: those of `grid`, times it."""
    scale, codes = grid(values)
    return scale * codes.astype("float32")


def grid(values):
    """Return the scale and the codes that are nearest to `values`.

    Args:
        values: float32 array.

    Returns:
        `(scale, codes)`: a float32 number and an int8 array of codes in [-127, 127], the largest
        magnitude among them 127 (0 where all values are zero).
    """
    values = np.asarray(values, "float32")
    scale = np.float32(np.abs(values).max(initial=0) / CODES)
    if not scale > 0:
        return np.float32(1), np.zeros(values.shape, "int8")
    return scale, np.clip(np.rint(values / scale), -CODES, CODES).astype("int8")


@dataclasses.dataclass
class _Codebook:
    """The clusters of a weight.

    Attributes:
        variable: the `keras.Variable`.
        values: float32 array of the clusters' values; the first is that of zero.
        indices: uint8 array of the variable's shape: the cluster of each entry.
    """

    variable: keras.Variable
    values: np.ndarray
    indices: np.ndarray

    def shared(self):
        """Return the variable's value with the clusters' values in it."""
        return self.values[self.indices]


class _Shared:
    """A constraint, which Keras' optimizers apply after each update, inside the compiled step."""

    def __init__(self, codebook):
        self.previous = codebook.variable.constraint
        counts = np.bincount(codebook.indices.ravel(), minlength=len(codebook.values))
        firsts = np.zeros(len(counts), "int32")
        found, positions = np.unique(codebook.indices, return_index=True)
        firsts[found] = positions
        # Tensors: TensorFlow would write arrays into the graph it compiles.
        self._indices = ops.convert_to_tensor(codebook.indices.ravel())
        self._firsts = ops.convert_to_tensor(firsts)
        self._counts = ops.convert_to_tensor(np.maximum(counts, 1).astype("float32"))
        self._is_used = ops.convert_to_tensor(np.arange(len(counts)) > 0)

    def __call__(self, value):
        if self.previous is not None:
            value = self.previous(value)
        value = _backend.read(value)
        flat = ops.reshape(ops.cast(value, "float32"), (-1,))
        indices = ops.cast(self._indices, "int32")
        # Members differ by a step only: in the sum of their differences from one of them, no
        # rounding errors add up, however many they are.
        centroids = ops.take(flat, self._firsts)
        differences = flat - ops.take(centroids, indices)
        sums = ops.segment_sum(differences, indices, num_segments=len(self._counts))
        centroids = ops.where(self._is_used, centroids + sums / self._counts, 0.0)
        shared = ops.reshape(ops.take(centroids, indices), value.shape)
        return ops.cast(shared, value.dtype)


def _codebooks(model, clusters, layers):
    """Find the clusters of each weight that is to be shared."""
    selection.check_model(model)
    asked = chosen(model, clusters, layers)
    check_finite([weight for weight, _ in asked])
    codebooks = []
    for weight, count in asked:
        value = ops.convert_to_numpy(ops.cast(_backend.read(weight.variable), "float32"))
        used = value[value != 0]
        centroids = kmeans(used, count) if used.size else np.zeros(0)
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, value)
        indices = np.where(value != 0, nearest + 1, 0).astype("uint8")
        values = np.concatenate([[0], centroids]).astype("float32")
        codebooks.append(_Codebook(weight.variable, values, indices))
    return codebooks


def chosen(model, clusters, layers=None):
    """Return the kernels to share, each with its number of clusters."""
    kernels = [weight for weight in selection.weights(model) if weight.is_kernel]
    if not kernels:
        raise ValueError(f"The model {model.name!r} has no kernel whose weights could be shared.")
    if not isinstance(layers, dict):
        return [(weight, clusters) for weight in selection.choose(kernels, layers)]
    counts = {}
    for selector, count in layers.items():
        for weight in selection.choose(kernels, [selector]):
            counts.setdefault(id(weight), count)
    asked = [(weight, counts.get(id(weight), clusters)) for weight in kernels]
    return [(weight, count) for weight, count in asked if count is not None]


def _constraint(weight):
    constraint = getattr(weight.variable, "constraint", None)
    return constraint if isinstance(constraint, _Shared) else None


def _check_pruned(model):
    """Raise where a `PruningOptimizer` will make more zeros: the clusters would mix with them."""
    optimizer = model.optimizer
    if not isinstance(optimizer, PruningOptimizer):
        return
    for group in optimizer.groups:
        final = group.setting.final_sparsity
        if final is not None and selection.pruned_share([group]) < final - _SAME_SHARE:
            raise ValueError(
                f"The model {model.name!r} is still being pruned: share its weights in a `fit` "
                "of its own, after that with kprune.Pruning. Received: "
                f"{selection.pruned_share([group]):.2%} zeros, to become {final:.2%}"
            )
