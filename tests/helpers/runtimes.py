"""Runs exported files the plain way, without any of kprune's code."""

import keras
import numpy as np
from keras import layers

from kprune.graphs import sample_data
from kprune.graphs.signature import describe

needs_tensorflow = keras.backend.backend() != "tensorflow"
SKIP = "converts in the same process on TensorFlow only; test_child.py covers the others"


def run_tflite(path, feed):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_signature_runner()(**feed)


def run_onnx(path, feed):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def fresh_inputs(model, samples, seed=123):
    """Return inputs other than those an export is verified on, packed for Keras and as a feed."""
    signature = describe(model)
    arrays = sample_data.generate(model, signature, samples, seed=seed)
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    feed = {spec.name: array for spec, array in zip(signature.flat, arrays)}
    return signature.pack(tensors), feed


def keras_outputs(model, arguments):
    outputs = keras.tree.flatten(model(*arguments, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def prune_by_hand(model, sparsity=0.7):
    """Zero the smallest weights of every kernel; return {name: share of zeros}."""
    from kprune.graphs.weights import weights_of

    shares = {}
    for weight in weights_of(model):
        if weight.reason is None:
            value = np.array(keras.ops.convert_to_numpy(weight.variable.value), dtype="float32")
            value[np.abs(value) < np.quantile(np.abs(value), sparsity)] = 0
            weight.variable.assign(value)
            shares[weight.name] = 1 - np.count_nonzero(value) / value.size
    return shares


def digits_cnn():
    """A small CNN for the `digits`, compiled, its weights always the same."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
