"""Weight clustering: a kernel takes a few values only, which are trained together."""

import numbers
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune._keras import backend
from kprune.graphs.weights import check_model, weights_of
from kprune.pruning import selection
from kprune.pruning.groups import check_finite, pruned_share
from kprune.training.at_risk import CLUSTERS, watch
from kprune.training.clustering.centroids import kmeans
from kprune.training.clustering.installing import CLUSTERED_OPTIMIZERS
from kprune.training.clustering.optimizer import CODES, Codebook
from kprune.training.mechanism import InstalledForFit
from kprune.training.zeros import pruned_groups

MOST_CLUSTERS = 255  # Zero is one more, and 8 bits hold 256 numbers.
SMALLEST_STORED = 256  # entries: in fewer, codes and their operator take more than they save
_SAME_SHARE = 1e-3


class WeightClustering(InstalledForFit):
    """Clusters weights during `model.fit`, the second stage of Deep Compression.

    At the start, the values other than zero of each kernel are sorted into clusters by k-means,
    and each becomes the centroid of its cluster. From then on the centroids are trained, by the
    optimizer's own rule, with the sum of their members' gradients (with SGD, the mean: it diverges
    with sums). The float weights are trained on behind them, inside the compiled step, and after
    every step each entry takes the value of the centroid that is nearest to its float weight, so
    that entries change clusters. Zeros stay exactly zero without a mask; in a kernel that has
    zeros, others may join them, where zero is nearest. All values are multiples of a scale of
    their kernel's, -127 to 127 times: with 8 bits for each weight,
    `kprune.export_tflite(..., quantize="codebook")` stores exactly the values that the model
    computes with. That file has codes of kernels with 256 entries or more; smaller ones are
    clustered, too, and a warning names them.

    Prune first, and cluster in a `fit` of its own. Weights are clustered after every step, so any
    checkpoint is, whatever `EarlyStopping` restores too, and it is plain Keras. The float weights
    are not saved: training that is resumed goes on from the clusters. After `fit` nothing holds
    them: a later `fit` without this callback trains each weight by itself, and warns. A `fit` that
    fails leaves the clusters in the model: the next `fit` with this callback begins again, and
    `kprune.strip_pruning` takes it off. Every optimizer in the model's attributes is wrapped, for
    a `train_step` with several.

    Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained
    quantization and Huffman coding" (2016).

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model = kprune.strip_pruning(model)
    model.fit(x, y, epochs=3, callbacks=[kprune.WeightClustering(16)])
    kprune.export_tflite(model, "model.tflite", quantize="codebook")
    ```

    Args:
        clusters: int in [1, 255], how many values other than zero each kernel may have; None
            for the layers only that the dict `layers` gives a number.
        layers: which layers, as in `Pruning`; all by default. In a dict the values are: None (not
            clustered), or a number of clusters. Layers that match none get `clusters`.

    Raises:
        ValueError: an argument out of its range. At the start of `fit`: a model that is not
            built, nothing to cluster, `layers` that matches nothing, weights that are NaN or
            infinite, pruning that is not done; the model is left as it was.
    """

    mechanism = CLUSTERED_OPTIMIZERS

    def __init__(self, clusters: int = 16, layers: Any = None) -> None:
        super().__init__()
        check_clusters(clusters, layers)
        self.clusters, self.layers = clusters, layers

    def install(self) -> None:
        model = self.model
        _check_pruned(model)
        codebooks = _codebooks(model, self.clusters, self.layers)
        _warn_of_small(codebooks)
        self._clustered = {id(codebook.variable) for codebook in codebooks}
        for codebook in codebooks:
            codebook.variable.assign(codebook.on_grid())
        self.mechanism.install(model, codebooks)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        _check_pruned(self.model)  # `Pruning` may have come after this callback.
        asked = [weight for weight, _ in chosen(self.model, self.clusters, self.layers)]
        late = [weight.name for weight in asked if id(weight.variable) not in self._clustered]
        if late:
            raise ValueError(
                f"{', '.join(late)} did not exist before the first step, and so could not be "
                "clustered: call the model on a batch of data before `fit`."
            )
        check_finite(asked)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        model = self.model
        # Averages of an optimizer with `use_ema`, which are not clustered, may be in it.
        cluster_once(model, self.clusters, self.layers)
        watch(
            [weight.variable for weight, _ in chosen(model, self.clusters, self.layers)],
            CLUSTERS,
            "This training moves weights apart that WeightClustering had clustered: pass "
            "kprune.WeightClustering to this `fit`, too, or call kprune.strip_pruning(model) first "
            "if that is what you want.",
        )


def cluster_once(model: keras.Model, clusters: int = 16, layers: Any = None) -> Any:
    """Cluster the weights of a model once, without training.

    Weights that are clustered already, by as many clusters or fewer, keep their values, but for the
    rounding to multiples of a scale that ends `WeightClustering`.

    Example:

    ```python
    kprune.training.cluster_once(model, clusters=64)
    ```

    Args:
        model: a built `keras.Model`.
        clusters: as of `WeightClustering`.
        layers: as of `WeightClustering`.

    Raises:
        ValueError: as `WeightClustering`; the model is left as it was.
    """
    check_clusters(clusters, layers)
    for codebook in _codebooks(model, clusters, layers):
        codebook.variable.assign(codebook.on_grid())


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
            "Give a number of `clusters`, such as kprune.WeightClustering(16), or a dict `layers` "
            f"with one. Received: clusters={clusters!r}, layers={layers!r}"
        )


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


def _codebooks(model, clusters, layers):
    """Find the clusters of each weight that is to be clustered."""
    if not any(weight.is_kernel for weight in weights_of(model)):
        check_model(model)
    asked = chosen(model, clusters, layers)
    check_finite([weight for weight, _ in asked])
    codebooks = []
    for weight, count in asked:
        value = ops.convert_to_numpy(ops.cast(backend.read(weight.variable), "float32"))
        used = value[value != 0]
        centroids = kmeans(used, count) if used.size else np.zeros(0)
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, value)
        indices = np.where(value != 0, nearest + 1, 0).astype("uint8")
        values = np.concatenate([[0], centroids]).astype("float32")
        codebooks.append(Codebook(weight.variable, values, indices, value))
    return codebooks


def chosen(model, clusters, layers=None):
    """Return the kernels to cluster, each with its number of clusters."""
    kernels = [weight for weight in weights_of(model) if weight.is_kernel]
    if not kernels:
        raise ValueError(f"The model {model.name!r} has no kernel that could be clustered.")
    if not isinstance(layers, dict):
        return [(weight, clusters) for weight in selection.choose(kernels, layers)]
    counts = {}
    for selector, count in layers.items():
        for weight in selection.choose(kernels, [selector]):
            counts.setdefault(id(weight), count)
    asked = [(weight, counts.get(id(weight), clusters)) for weight in kernels]
    return [(weight, count) for weight, count in asked if count is not None]


def _warn_of_small(codebooks):
    """Say of which kernels `export_tflite(..., quantize="codebook")` stores no codes, and why."""
    small = [one.variable for one in codebooks if one.indices.size < SMALLEST_STORED]
    if not small:
        return
    names = ", ".join(variable.path for variable in small[:5])
    names += f" and {len(small) - 5} more" if len(small) > 5 else ""
    if len(small) == len(codebooks):
        what = "No kernel has that many, so there will be no such file. They are clustered: "
    else:
        what = "Clustered, but stored as floats: "
    warnings.warn(
        'export_tflite(..., quantize="codebook") stores codes of kernels with '
        f"{SMALLEST_STORED} entries or more. {what}{names}.",
        stacklevel=2,
    )


def _check_pruned(model):
    """Raise where a `PruningOptimizer` will make more zeros: the clusters would mix with them."""
    for group in pruned_groups(model):
        final = group.setting.final_sparsity
        if final is not None and pruned_share([group]) < final - _SAME_SHARE:
            raise ValueError(
                f"The model {model.name!r} is still being pruned: cluster its weights in a `fit` "
                "of its own, after that with kprune.Pruning. Received: "
                f"{pruned_share([group]):.2%} zeros, to become {final:.2%}"
            )
