"""Samples cut into batches of one size, and outputs put together again."""

import numpy as np

CHUNK = 32  # samples at once, through models with a free batch size


def batches(arrays, size):
    """Cut samples into batches of exactly `size`, repeating the last sample to fill the last."""
    for start in range(0, len(arrays[0]), size):
        batch = [array[start : start + size] for array in arrays]
        missing = size - len(batch[0])
        yield [np.concatenate([part, part[-1:].repeat(missing, 0)]) for part in batch]


def join(collected, size, samples):
    """Put the outputs of `batches` together again; undoes the filling of the last."""
    joined = []
    for parts in zip(*collected):
        per_sample = parts[0].ndim > 0 and len(parts[0]) == size
        joined.append(np.concatenate(parts)[:samples] if per_sample else parts[0])
    return joined
