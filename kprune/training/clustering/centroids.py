"""Where centroids begin: k-means, and TFMOT's other ways."""

import enum

import numpy as np

_ITERATIONS = 1000
_SEED = 9
_LOWEST_QUANTILE = 0.01


class CentroidInitialization(enum.StrEnum):
    """How the centroids of `cluster_weights` are initialized; TFMOT's names and values.

    * `LINEAR`: evenly spaced between the smallest and the largest weight.
    * `RANDOM`: uniformly random between the smallest and the largest weight.
    * `DENSITY_BASED`: at evenly spaced quantiles of the weights, from 1% to 100%.
    * `KMEANS_PLUS_PLUS`: k-means, which begins at weights selected as k-means++ does, each
      with a probability that grows with its squared distance from those selected before
      (Arthur and Vassilvitskii, 2007).

    Example:

    ```python
    init = kprune.CentroidInitialization.DENSITY_BASED
    model = kprune.cluster_weights(model, 16, cluster_centroids_init=init)
    ```
    """

    LINEAR = "CentroidInitialization.LINEAR"
    RANDOM = "CentroidInitialization.RANDOM"
    DENSITY_BASED = "CentroidInitialization.DENSITY_BASED"
    KMEANS_PLUS_PLUS = "CentroidInitialization.KMEANS_PLUS_PLUS"


def initial_centroids(values, number, init, keep_zero=False):
    """Return the centroids that training begins with.

    Args:
        values: float array, the weights; not empty.
        number: int, how many centroids.
        init: a `CentroidInitialization`.
        keep_zero: whether the first centroid is zero, and the others are divided among negative
            and positive weights in proportion to their numbers.

    Returns:
        float32 array [number]. Where there are fewer distinct weights, values repeat.
    """
    values = np.asarray(values, "float64").ravel()
    if not keep_zero:
        return _of_interval(values, number, init).astype("float32")
    negative, positive = values[values < 0], values[values > 0]
    used = len(negative) + len(positive)
    below = int(np.rint((number - 1) * len(negative) / used)) if used else 0
    parts = [np.zeros(1), _of_interval(negative, below, init)]
    parts.append(_of_interval(positive, number - 1 - below, init))
    return np.concatenate(parts).astype("float32")


def _of_interval(values, number, init):
    if not len(values):
        return np.zeros(number)
    if not number:
        return np.zeros(0)
    if init == CentroidInitialization.LINEAR:
        return np.linspace(values.min(), values.max(), number)
    if init == CentroidInitialization.RANDOM:
        rng = np.random.default_rng(_SEED)
        return np.sort(rng.uniform(values.min(), values.max(), number))
    if init == CentroidInitialization.DENSITY_BASED:
        return np.quantile(values, np.linspace(_LOWEST_QUANTILE, 1, number))
    found = lloyd(np.sort(values), plus_plus(values, number))
    return np.pad(found, (0, number - len(found)), mode="edge")


def plus_plus(values, number):
    """Return at most `number` of the values, selected as k-means++ does, ascending."""
    rng = np.random.default_rng(_SEED)
    chosen = [rng.choice(values)]
    distances = (values - chosen[0]) ** 2
    while len(chosen) < number and (total := distances.sum()) > 0:
        chosen.append(rng.choice(values, p=distances / total))
        distances = np.minimum(distances, (values - chosen[-1]) ** 2)
    return np.unique(chosen)


def kmeans(values, clusters):
    """Return the centroids of k-means, ascending.

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
    return lloyd(ordered, _linear(ordered, clusters))


def lloyd(ordered, centroids):
    """Return the centroids that Lloyd's algorithm ends at, those that have members.

    Args:
        ordered: float64 array of rank 1, ascending, not empty.
        centroids: float64 array of rank 1, ascending: where it begins.
    """
    sums = np.concatenate([[0], np.cumsum(ordered)])
    ends = None
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
