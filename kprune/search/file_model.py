"""A file as a Keras model, so that what judges models can judge files."""

import keras
import numpy as np

from kprune._keras.backend import holds_values
from kprune.graphs.inputs import signature_of
from kprune.graphs.walk import graph_of
from kprune.runtimes.batches import CHUNK, batches, join


class FileModel(keras.Model):
    """A model file behind `predict`, `evaluate` and `__call__`: what they compute, the file does.

    Example:

    >>> report = kprune.export_tflite(model, "model.tflite")
    >>> file = FileModel(LiteRT("model.tflite"), model, [one.name for one in report.outputs], 1, 0)
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
        self._kprune_hidden = _Hidden(model, structure)
        if getattr(model, "output_names", None):
            self.output_names = list(model.output_names)  # By which losses may be given.
        self.built = True

    def call(self, *inputs):
        leaves = self._kprune_hidden.leaves(inputs)
        if not all(map(holds_values, leaves)):  # Keras asks for the shapes only.
            return self._kprune_hidden.model(*inputs, training=False)
        specs = self._kprune_signature.flat
        values = map(keras.ops.convert_to_numpy, leaves)
        arrays = [np.asarray(value, spec.dtype) for value, spec in zip(values, specs, strict=True)]
        samples = len(arrays[0])
        size = self._kprune_batch or min(CHUNK, samples)
        collected = []
        for batch in batches(arrays, size):
            found = self._kprune_run({s.name: part for s, part in zip(specs, batch)})
            collected.append([found[name] for name in self._kprune_names])
        outputs = [keras.ops.convert_to_tensor(a) for a in join(collected, size, samples)]
        return keras.tree.pack_sequence_as(self._kprune_hidden.structure, outputs)


class _Hidden:
    """The Keras model behind a file, which is no layer of what stands before it."""

    def __init__(self, model, structure):
        self.model, self.structure = model, structure

    def leaves(self, inputs):
        """What a call was given, in the order of the model's inputs, as Keras would take it."""
        graph, (first, *_) = graph_of(self.model), inputs
        own = getattr(self.model, "input", None) if graph is not None else None
        if isinstance(first, dict) and not isinstance(own, dict) and graph is not None:
            names = [tensor.name for tensor in graph.inputs]
            if set(names) <= set(first):
                return [first[name] for name in names]
        return keras.tree.flatten(list(inputs))
