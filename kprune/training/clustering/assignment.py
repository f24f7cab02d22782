"""Which centroid is nearest, and what a weight becomes of it: one implementation for both doors."""

from keras import ops


def nearest(values, centroids):
    """Return for each value the index of the centroid that is nearest to it.

    Args:
        values: float32 tensor.
        centroids: float32 tensor [clusters], in any order; or [clusters, channels], for values
            whose last axis is `channels`, each of which has centroids of its own.

    Returns:
        int32 tensor of the shape of `values`; for [clusters, channels], indices into the
        flattened centroids.
    """
    order = ops.argsort(centroids, axis=0)
    ascending = ops.take_along_axis(centroids, order, axis=0)
    middles = (ascending[1:] + ascending[:-1]) / 2
    if len(centroids.shape) == 1:
        flat = ops.reshape(values, (-1,))
        found = ops.take(order, ops.searchsorted(middles, flat))
        return ops.cast(ops.reshape(found, values.shape), "int32")
    channels = centroids.shape[1]
    above = ops.expand_dims(values, -1) > ops.transpose(middles)
    ranks = ops.sum(ops.cast(above, "int32"), axis=-1)
    own = ops.arange(channels, dtype="int32")
    ranks = ops.reshape(ranks * channels + own, (-1,))
    found = ops.cast(ops.take(ops.reshape(order, (-1,)), ranks), "int32")
    return ops.reshape(found, values.shape) * channels + own


def sums(values, indices, count):
    """Return the sum of the values of each cluster.

    Args:
        values: float tensor.
        indices: int32 tensor of the same shape, in [0, count).
        count: int.

    Returns:
        float tensor [count].
    """
    flat = ops.reshape(values, (-1,))
    return ops.segment_sum(flat, ops.reshape(indices, (-1,)), num_segments=count)
