"""Arrays that fit a model's inputs: given by the user, or generated to verify a file with."""

import keras
import numpy as np

from kprune._keras.graph import call_nodes
from kprune._keras.layers import flatten_layers
from kprune.graphs.signature import symbolic_inputs
from kprune.graphs.sizes import concrete

# A dynamic dimension gets this many steps (sequences) or pixels (images, volumes) when inputs are
# generated, if the model accepts that: less than where FLOPs are counted, since these are run.
FREE_STEPS, FREE_PIXELS = 16, 64
# An array of calibration data is thinned out evenly to this many samples; more change little
# and take long. A generator is read up to the same number.
CALIBRATION_SAMPLES = 512


def arrays_for(signature, data, name="inputs"):
    """Return `data` as one array for each input, checked against the signature.

    Args:
        signature: the model's `Signature`.
        data: an array; or a structure of arrays like the model's inputs; or a dict from input
            names. Samples lie along the first axis.
        name: the argument's name, for the error.

    Raises:
        ValueError: wrong structure, shape or dtype, no samples, or NaN or infinite values.
    """
    specs = signature.flat
    if isinstance(data, dict) and set(data) == {spec.name for spec in specs}:
        leaves = [data[spec.name] for spec in specs]
    elif len(specs) == 1 and not isinstance(data, dict):
        leaves = [_unwrap(data, len(specs[0].shape))]
    else:
        leaves = keras.tree.flatten(data)
    if len(leaves) != len(specs):
        wanted = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
        raise ValueError(
            f"`{name}` must hold one array for each of the model's {len(specs)} inputs: {wanted}. "
            f"Received: {len(leaves)} arrays"
        )
    arrays = [_checked(leaf, spec, name) for leaf, spec in zip(leaves, specs)]
    counts = {len(array) for array in arrays}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"`{name}` must hold the same number of samples, at least one, for every input. "
            f"Received: {[len(array) for array in arrays]}"
        )
    return arrays


def _unwrap(data, rank):
    """Take a lone array out of the list or tuple it came in."""
    while isinstance(data, list | tuple) and len(data) == 1 and np.ndim(data[0]) == rank:
        data = data[0]
    return data


def _checked(leaf, spec, name):
    array = np.asarray(leaf)
    fits = array.ndim == len(spec.shape) and all(
        want in (None, got) for want, got in zip(spec.shape[1:], array.shape[1:])
    )
    if not fits:
        raise ValueError(
            f"`{name}` does not fit the model's input '{spec.name}'. "
            f"Expected shape: {(None, *spec.shape[1:])}. Received: {array.shape}"
        )
    if array.dtype.kind not in "fiub" and "float" not in array.dtype.name:
        raise ValueError(
            f"`{name}` must hold numbers for the input '{spec.name}'. Received: {array.dtype}"
        )
    if "float" in array.dtype.name and not np.isfinite(array.astype("float32")).all():
        raise ValueError(
            f"`{name}` holds NaN or infinite values for the input '{spec.name}': remove those "
            "samples first."
        )
    return array.astype(spec.dtype)


def calibration_arrays(signature, data):
    """Gather representative data for quantization, one array for each input.

    Args:
        signature: the model's `Signature`.
        data: samples as for `arrays_for`; or an iterable (generator, `tf.data.Dataset`,
            `keras.utils.PyDataset`) of batches, of single samples, or of (inputs, targets, ...)
            tuples; or a function without arguments that returns such an iterable.

    Returns:
        `(arrays, note)`: at most `CALIBRATION_SAMPLES` samples of each input, and a sentence
        saying so where some were left out, else None.

    Raises:
        ValueError, TypeError: no data, or data that does not fit.
    """
    name = "representative_data"
    if callable(data) and not hasattr(data, "__len__"):
        data = data()
    if _is_arrays(signature, data):
        arrays = arrays_for(signature, data, name)
        total = len(arrays[0])
        chosen = np.linspace(0, total - 1, min(total, CALIBRATION_SAMPLES)).round().astype(int)
        note = f"calibrated on {len(chosen)} of {total} samples, evenly spaced"
        return [a[chosen] for a in arrays], note if len(chosen) < total else None
    if isinstance(data, keras.utils.PyDataset):
        data = (data[index] for index in range(len(data)))
    if not hasattr(data, "__iter__"):
        raise TypeError(
            "`representative_data` must be arrays, or an iterable of batches of the model's "
            f"inputs. Received: {data!r} (of type {type(data)})"
        )
    batches, count = [], 0
    for batch in data:
        batches.append(_batch_of(signature, batch, name))
        count += len(batches[-1][0])
        if count >= CALIBRATION_SAMPLES:
            break
    if not batches:
        raise ValueError("`representative_data` is empty: give at least one sample.")
    arrays = [np.concatenate(parts)[:CALIBRATION_SAMPLES] for parts in zip(*batches)]
    note = f"calibrated on the first {len(arrays[0])} samples of the representative data"
    return arrays, note if count >= CALIBRATION_SAMPLES else None


def _is_arrays(signature, data):
    """Tell arrays (samples along the first axis) from an iterable of batches."""
    if isinstance(data, dict):
        return True
    if isinstance(data, list | tuple):
        specs = signature.flat
        if len(specs) == 1 and _rank(data) == len(specs[0].shape):
            return True  # one array, as nested lists
        leaves = keras.tree.flatten(data)
        ranks = [_rank(leaf) for leaf in leaves[: len(specs)]]
        return len(leaves) == len(specs) and ranks == [len(spec.shape) for spec in specs]
    return hasattr(data, "shape")


def _rank(data):
    try:
        return np.ndim(data)
    except ValueError:  # arrays of different shapes
        return None


def _batch_of(signature, batch, name):
    """Read one element of an iterable: inputs, (inputs, targets, ...), batched or single."""
    candidates = [batch]
    if isinstance(batch, list | tuple) and batch:
        candidates.append(batch[0])
    for candidate in candidates:
        leaves = keras.tree.flatten(candidate)
        if len(leaves) != len(signature.flat):
            continue
        ranks = [np.ndim(leaf) - len(spec.shape) for leaf, spec in zip(leaves, signature.flat)]
        if set(ranks) == {0}:
            return arrays_for(signature, candidate, name)
        if set(ranks) == {-1}:
            single = keras.tree.map_structure(lambda leaf: np.asarray(leaf)[None], candidate)
            return arrays_for(signature, single, name)
    return arrays_for(signature, batch, name)  # raises, saying what was expected


def generate(model, signature, samples, seed=0):
    """Generate inputs of the right types and ranges, for comparing two ways to run a model.

    Integers stay inside the vocabulary of the Embedding that reads them, and half of the samples
    end in zeros, as padded sequences do; floats are standard normal, or cover the range that a
    Rescaling layer expects.

    Returns:
        One array for each input, `samples` along the first axis.

    Raises:
        ValueError: no size was found that the model accepts for dynamic dimensions.
    """
    rng = np.random.default_rng(seed)
    vocabularies = _vocabularies(model, signature)
    scale = _rescaling(model)
    arrays = []
    images = any(len(spec.shape) > 3 for spec in signature.flat)
    usual = FREE_PIXELS if images else FREE_STEPS
    for spec in keras.tree.flatten(concrete(model, signature.arguments, usual=usual)):
        shape = (samples, *spec.shape[1:])
        vocabulary = vocabularies.get(spec.name)
        if spec.dtype == "bool":
            array = rng.random(shape) < 0.5
        elif vocabulary or "int" in spec.dtype:
            array = rng.integers(0, vocabulary or 2, shape)
            if array.ndim == 2:
                array[samples // 2 :, shape[1] - shape[1] // 3 :] = 0
        elif scale:
            array = rng.uniform(0, 1 / scale, shape)
        else:
            array = rng.normal(size=shape)
        arrays.append(array.astype(spec.dtype))
    return arrays


def _vocabularies(model, signature):
    """Map the names of inputs that hold ids to the number of ids there are."""
    layers = [x for x in flatten_layers(model) if isinstance(x, keras.layers.Embedding)]
    tensors = symbolic_inputs(model)
    tensors = keras.tree.flatten(tensors) if tensors is not None else [None] * len(signature.flat)
    known, result = [], {}
    for spec, tensor in zip(signature.flat, tensors):
        readers = [layer for layer in layers if _reads(layer, tensor)]
        known += readers
        if readers:
            result[spec.name] = min(layer.input_dim for layer in readers)
    # What an Embedding inside a nested or subclassed model reads cannot be seen from here.
    unseen = [layer.input_dim for layer in layers if layer not in known]
    for spec in signature.flat:
        if unseen and ("int" in spec.dtype or len(spec.shape) <= 2):
            result.setdefault(spec.name, min(unseen))
    return result


def _reads(layer, tensor):
    return any(tensor is read for node in call_nodes(layer) for read in node.input_tensors)


def _rescaling(model):
    """Return the factor of the model's Rescaling layer, if it has one that only shrinks."""
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Rescaling) and np.isscalar(layer.scale):
            return abs(layer.scale) or None
    return None
