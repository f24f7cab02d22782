"""Whatever Keras runs on, it is the file that is judged."""

import keras
import numpy as np
import pytest

import kprune
from kprune.search.judge import Judge


@pytest.mark.parametrize("compiled", [True, False])
def test_the_file_is_judged(tmp_path, compiled):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    y = x[:, :3].argmax(-1)
    stack = [keras.Input((6,)), keras.layers.Dense(3, activation="softmax")]
    model, other = keras.Sequential(stack), keras.Sequential(stack[:1])
    other.add(keras.layers.Dense(3, activation="softmax"))
    model.layers[0].set_weights([np.eye(6, 3, dtype="float32"), np.zeros(3, "float32")])
    if compiled:
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    report = kprune.export_onnx(model, tmp_path / "m.onnx")

    def evaluate(model):
        if compiled:
            return model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
        return np.mean(model.predict(x, verbose=0).argmax(-1) == y)

    judge = Judge(evaluate, model)
    # The model beside the file knows nothing; the file is right.
    names = [one.name for one in report.outputs]
    assert judge.of_dense(tmp_path / "m.onnx", names, other) == 1.0
    assert judge.judged == "file"
