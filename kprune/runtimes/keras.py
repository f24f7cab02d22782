"""Keras, the runtime of `.keras` files, and of the models that others are compared with."""

import contextlib
import os


class Keras:
    """A `.keras` file, in Keras' own compiled `predict_on_batch`.

    Args:
        file: its path.
        threads: int, how many threads it may use. TensorFlow reads that from the environment
            (`TF_NUM_INTRAOP_THREADS`), and on JAX it holds for the process.
    """

    def __init__(self, file, threads=None):
        if threads is not None and os.environ.get("KERAS_BACKEND") == "jax":
            _use_processors(threads)
        import keras

        if threads is not None and keras.backend.backend() == "torch":
            import torch

            torch.set_num_threads(threads)
        self._model = keras.models.load_model(file, compile=False)
        self.name, self.version = f"Keras ({keras.backend.backend()})", keras.__version__

    def prepare(self, feeds):
        """Take the inputs of the runs that follow, structured like the model's."""
        self._feeds = feeds

    def run(self):
        """Run once; returns the outputs as the model gives them."""
        return self._model.predict_on_batch(self._feeds)

    def __call__(self, feeds):
        """Prepare and run."""
        self.prepare(feeds)
        return self.run()


def _use_processors(count):
    """Let this process have so many: XLA's CPU client sizes its pool by them, and nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def call(model, arguments):
    """Call a model once, without gradients, in inference.

    Args:
        model: a built `keras.Model`.
        arguments: its positional arguments, structures of tensors.

    Returns:
        (its outputs as it gives them, a list of their leaves as NumPy arrays, floats as float32).
    """
    import keras

    with _no_gradients(keras.backend.backend()):
        outputs = model(*arguments, training=False)
        leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        return outputs, [_to_numpy(leaf) for leaf in leaves]


def _to_numpy(tensor):
    import keras
    import numpy as np

    array = np.asarray(keras.ops.convert_to_numpy(tensor))
    return array.astype("float32") if "float" in array.dtype.name else array


def _no_gradients(backend):
    if backend != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()
