"""Judging without the user's `evaluate`: by labels, or by agreement with the dense model."""

import keras
import numpy as np

from kprune.graphs.inputs import signature_of
from kprune.graphs.sample_data import arrays_for
from kprune.runtimes.verification import compare, run_keras
from kprune.structured.block_scores import cut_data

_BATCH = 256


class Examples:
    """Examples in memory, one half to calibrate by and the other to judge by.

    Args:
        data: arrays, `(x, y)`, or an iterable of batches of either, as of `prune_once`.
        model: the model that takes them.

    Attributes:
        calibration: the arrays of every other example, one for each input.
        held_out: those of the others.
        labels: of the others; None without.
        calibration_labels: of the former.
    """

    def __init__(self, data, model):
        signature = signature_of(model)
        inputs = len(signature.flat)
        parts = [p if isinstance(p, tuple) else (p,) for p in cut_data(data, inputs, _BATCH)]
        if not parts:
            raise ValueError("`data` has no example in it.")
        x = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *[p[0] for p in parts])
        arrays = arrays_for(signature, x, "data")
        if len(arrays[0]) < 2:
            raise ValueError(
                "`data` needs two examples at the least, some hundred at best: one half is to "
                f"calibrate by, the other to judge by. Received: {len(arrays[0])}"
            )
        self.calibration = [array[::2] for array in arrays]
        self.held_out = [array[1::2] for array in arrays]
        self.labels = self.calibration_labels = None
        if len(parts[0]) > 1 and parts[0][1] is not None:
            y = keras.tree.map_structure(lambda *y: np.concatenate(y), *[p[1] for p in parts])
            self.calibration_labels, self.labels = (
                keras.tree.map_structure(lambda leaf, s=start: leaf[s::2], y) for start in (0, 1)
            )
        self._signature = signature

    def packed(self, arrays):
        """Return arrays structured as the model's first argument."""
        return self._signature.pack(arrays)[0]


class Agreement:
    """An `evaluate`: the share of right classes, or of outputs that agree with the dense model's.

    Agreement is the share of examples with the same best class; of an output that is no scores of
    classes, 1 less the relative root mean square difference.

    Args:
        model: the dense model.
        examples: its `Examples`.

    Attributes:
        about: str, what it measures.
    """

    def __init__(self, model, examples):
        self._x, self._labels = examples.packed(examples.held_out), None
        self._reference = run_keras(model, signature_of(model), examples.held_out)
        scores = self._reference.class_scores
        about = "agreement with the dense model"
        labels = examples.labels
        if hasattr(labels, "shape") and scores == [True]:
            one_hot = labels.ndim > 1 and labels.shape[-1] == self._reference.outputs[0].shape[-1]
            self._labels = labels.argmax(-1) if one_hot else labels.reshape(len(labels), -1)[:, 0]
            about = "accuracy"
        self.about = f"{about} on {len(examples.held_out[0])} examples"

    def __call__(self, model):
        outputs = keras.tree.flatten(model.predict(self._x, batch_size=_BATCH, verbose=0))
        if self._labels is not None:
            return float(np.mean(outputs[0].argmax(-1) == self._labels))
        found = []
        for each in zip(
            self._reference.names, self._reference.outputs, outputs, self._reference.class_scores
        ):
            difference = compare(*each)
            same = difference.top1_agreement
            found.append(1 - difference.rms_rel_diff if same is None else same)
        return float(np.mean(found))
