"""What a file is worth: the user's `evaluate`, or agreement with the dense file."""

import math
import numbers

import keras
import numpy as np

from kprune._keras.compiling import compile_like, compile_settings
from kprune._system.errors import first_line
from kprune.graphs.inputs import signature_of
from kprune.graphs.walk import graph_of
from kprune.runtimes.keras import call
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.search.file_model import FileModel

_RUNTIMES = {".tflite": (LiteRT, 1), ".onnx": (OnnxRuntime, None)}


class Judge:
    """Calls `evaluate` on files, behind the face of a Keras model.

    Args:
        evaluate: function from a `keras.Model` to a number.
        like: the user's model, whose loss and metrics `model.evaluate` is to compute.

    Attributes:
        judged: `"file"`, or `"model"` once `evaluate` has failed on a file and not on the model.
        reason: str, how it failed.
    """

    def __init__(self, evaluate, like):
        self._evaluate, self._like = evaluate, like
        self.judged, self.reason = "file", ""

    def __call__(self, path, names, model):
        """Return the metric of a file, or of the model that it was made from."""
        if self.judged == "model":
            return self.of_model(model)
        runtime, batch = _RUNTIMES[path.suffix]
        file = FileModel(runtime(path), model, names, batch, _structure(model))
        if compile_settings(self._like) is None:
            file.compile(run_eagerly=True, jit_compile=False)
        else:
            compile_like(file, self._like, run_eagerly=True, jit_compile=False)
        return _number(self._evaluate(file))

    def of_model(self, model):
        """Return the metric of a Keras model."""
        compile_like(model, self._like)
        return _number(self._evaluate(model))

    def of_dense(self, path, names, model):
        """Return the metric of the dense file; find out what `evaluate` takes.

        Raises:
            ValueError: it returns no number, or NaN.
        """
        try:
            metric = self(path, names, model)
        except NoNumber:
            raise
        except Exception as error:
            self.judged, self.reason = "model", first_line(error)
            try:
                metric = self(path, names, model)
            except NoNumber:
                raise
            except Exception:
                raise error from None
        if not math.isfinite(metric):
            raise ValueError(
                f"`evaluate` must return a number of the dense model. Received: {metric}"
            )
        return metric


class NoNumber(ValueError):
    """What `evaluate` returned is no number."""


def _number(value):
    if isinstance(value, dict | list | tuple | str) or value is None:
        raise NoNumber(
            "`evaluate` must return one number, such as model.evaluate(x, y, return_dict=True)"
            f"['accuracy']. Received: {value!r}"
        )
    try:
        value = value if isinstance(value, numbers.Real) else keras.ops.convert_to_numpy(value)
        return float(value)
    except Exception as error:
        raise NoNumber(
            f"`evaluate` must return one number. Received: {value!r} ({first_line(error)})"
        ) from error


def _structure(model):
    """What the model returns, with something else as leaves."""
    graph = graph_of(model)
    if graph is not None:
        return keras.tree.map_structure(lambda _: 0, graph.output)
    signature = signature_of(model)
    arrays = [np.zeros([size or 1 for size in spec.shape], spec.dtype) for spec in signature.flat]
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    outputs, _ = call(model, signature.pack(tensors))
    return keras.tree.map_structure(lambda _: 0, outputs)


def check_better_than_chance(judge, goal, metric, model):
    """Raise where the trained model is no better than one with its weights shuffled.

    Args:
        judge: a `Judge`.
        goal: a `Goal`.
        metric: float, of the dense file.
        model: the dense model; its weights change.
    """
    rng = np.random.default_rng(0)
    model.set_weights([_shuffled(value, rng) for value in model.get_weights()])
    chance = judge.of_model(model)
    if math.isfinite(chance) and goal.drop(chance, metric) <= 0:
        other = "min" if goal.mode == "max" else "max"
        raise ValueError(
            f"`evaluate` gives the trained model {metric:.4g}, and with its weights shuffled "
            f"{chance:.4g}, which is no worse with mode={goal.mode!r}. If a "
            f"{'lower' if other == 'min' else 'higher'} value is the better one, pass "
            f"mode={other!r}; else train the model first, and let `evaluate` judge what it is "
            "given."
        )


def _shuffled(value, rng):
    return rng.permutation(value.ravel()).reshape(value.shape) if value.ndim > 1 else value
