"""A file as a Keras model, so that what judges models can judge files."""

import keras
import numpy as np

from kprune.graphs.inputs import signature_of
from kprune.runtimes.batches import CHUNK, batches, join


class FileModel(keras.Model):
    """A model file behind `predict`, `evaluate` and `__call__`: what they compute, the file does.

    Example:

    >>> report = kprune.export_tflite(model, "model.tflite")
    >>> file = FileModel(LiteRT("model.tflite"), model, [one.name for one in report.outputs])
    >>> file.predict(x).shape

    Args:
        runtime: a runtime of `kprune.runtimes` that has loaded the file.
        model: the Keras model that the file was made from.
        names: the names of its outputs, in the order of the model's.
        batch: int, examples a run; None where the file leaves it open.
        structure: what the model returns, with anything as leaves.
    """

    def __init__(self, runtime, model, names, batch, structure):
        super().__init__(name=model.name)
        self._kprune_run = runtime
        self._kprune_signature = signature_of(model)
        self._kprune_names, self._kprune_batch = names, batch
        self._kprune_structure = [structure]  # In a list, as Keras tracks what it is given.
        self.built = True

    def call(self, *inputs):
        specs = self._kprune_signature.flat
        leaves = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(list(inputs))]
        arrays = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(leaves, specs, strict=True)]
        samples = len(arrays[0])
        size = self._kprune_batch or min(CHUNK, samples)
        collected = []
        for batch in batches(arrays, size):
            found = self._kprune_run({s.name: part for s, part in zip(specs, batch)})
            collected.append([found[name] for name in self._kprune_names])
        outputs = [keras.ops.convert_to_tensor(a) for a in join(collected, size, samples)]
        (structure,) = self._kprune_structure
        return keras.tree.pack_sequence_as(structure, outputs)
