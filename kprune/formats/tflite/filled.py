"""A `.tflite` file as if its weights had not been pruned: its zeros filled with small weights.

Of a pruned file alone nobody can say what the dense one took: but a compiler that stores weights
compressed can be asked about a file that is the same but for its zeros. What was pruned were the
smallest weights, so that they are put back between the smallest that were kept.
"""

import numpy as np

from kprune.formats.tflite.constants import tflite_zeros
from kprune.formats.tflite.file import packed, parsed, view

FILLED_FROM = 0.05  # of zeros: about as many as 8 bits make of a dense kernel's smallest weights
_SMALLEST = 0.1  # of the weights that were kept, by magnitude: how large those were that were not
_DTYPES = {9: "int8", 7: "int16"}  # of integer weights, by their numbers in the schema


def transform(blob, seed=0):
    """Replace the zeros of integer weights by values between the smallest of the others.

    Args:
        blob: the bytes of a TFLite file.
        seed: int, of what is drawn.

    Returns:
        The bytes of the changed file, which computes something else; `blob` itself where hardly
        a weight is zero.
    """
    zeros = _zeros(blob)
    if not zeros:
        return blob
    file, rng = parsed(blob), np.random.default_rng(seed)
    for index in zeros:
        tensor = file.subgraphs[0].tensors[index]
        buffer = file.buffers[tensor.buffer]
        values = np.array(buffer.data, "uint8").view(_DTYPES[tensor.type])
        _fill(values.reshape(tensor.shape), tensor.quantization.quantizedDimension, rng)
        buffer.data = values.view("uint8")
    return packed(file)


def _fill(values, axis, rng):
    """Fill zeros in place, channel by channel, as each has a scale of its own."""
    smallest = np.quantile(abs(values[values != 0].astype("int32")), _SMALLEST)
    for channel in np.moveaxis(values, axis, 0):
        kept = abs(channel[channel != 0].astype("int32"))
        # The scale of a channel without a weight tells nothing.
        most = max(1, round(np.quantile(kept, _SMALLEST) if kept.size else smallest))
        zero = channel == 0
        channel[zero] = rng.integers(-most, most + 1, np.count_nonzero(zero))


def _zeros(blob):
    """The tensors of the first subgraph that are weights with zeros among them, as indices."""
    model = view(blob)
    graph, found = model.Subgraphs(0), []
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        stored = model.Buffers(tensor.Buffer()).DataLength()
        if tensor.ShapeLength() < 2 or not stored or not _symmetric(tensor):
            continue
        zeros, size = tflite_zeros(model, tensor)
        if FILLED_FROM * size < zeros < size:
            found.append(index)
    return found


def _symmetric(tensor):
    """Whether a tensor holds integers that stand for real values, 0 for 0."""
    quantization = tensor.Quantization()
    if tensor.Type() not in _DTYPES or quantization is None or not quantization.ScaleLength():
        return False
    return not quantization.ZeroPointLength() or not quantization.ZeroPointAsNumpy().any()
