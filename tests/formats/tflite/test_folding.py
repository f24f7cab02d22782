"""What normalizes inputs, folded into the first kernel: the same function, one operator less."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.export import export_tflite
from kprune.formats.tflite import folding
from kprune.formats.tflite.operators import tflite_operators
from kprune.formats.tflite.quantization import normalizing
from kprune.runtimes.litert import LiteRT
from tests.helpers.runtimes import SKIP, needs_tensorflow

pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)
MEAN, VARIANCE = [2.0, -3.0, 100.0], [4.0, 0.25, 16.0]


@pytest.fixture
def _exact(monkeypatch):
    """Without the rounding of 8 bits in the bias, which the file's float form does not have."""
    monkeypatch.setattr(folding, "_rounded", lambda kernel, kind: kernel)


def model_of(*rest, shape=(9, 9, 3)):
    """A model whose first layer normalizes, with random biases."""
    inputs = keras.Input(shape, name="x")
    hidden = layers.Normalization(mean=MEAN, variance=VARIANCE)(inputs)
    for layer in rest:
        hidden = layer(hidden)
    for variable in (each for layer in rest for each in layer.weights):
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    return keras.Model(inputs, hidden)


def operators(blob):
    return [name for name, _ in tflite_operators(blob)]


def run(blob, x):
    file = LiteRT(blob)
    return np.concatenate([next(iter(file({"x": row[None]}).values())) for row in x])


CASES = {
    "dense": (lambda: [layers.Dense(5)], (3,), 2),
    "without a bias": (lambda: [layers.Dense(5, use_bias=False)], (3,), 2),
    "sequence": (lambda: [layers.Dense(5)], (7, 3), 2),
    "valid": (lambda: [layers.Conv2D(5, 3)], (9, 9, 3), 2),
    "strides": (lambda: [layers.Conv2D(5, 3, strides=2, activation="relu")], (9, 9, 3), 2),
    "same": (lambda: [layers.Conv2D(5, 3, padding="same")], (9, 9, 3), 1),
    "depthwise": (lambda: [layers.DepthwiseConv2D(3)], (9, 9, 3), 2),
    "multiplier": (lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2)], (9, 9, 3), 2),
    "flattened": (lambda: [layers.Flatten(), layers.Dense(5)], (9, 9, 3), 0),
    "activation": (lambda: [layers.ReLU(), layers.Conv2D(5, 3)], (9, 9, 3), 0),
}


@pytest.mark.usefixtures("_exact")
@pytest.mark.fast_for("dense", "same", "depthwise")
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same_with_fewer_operators(name, tmp_path):
    make, shape, fewer = CASES[name]
    path = tmp_path / "m.tflite"
    export_tflite(model_of(*make(), shape=shape), path)
    blob = path.read_bytes()
    names = normalizing(blob)
    assert len(names) == 2
    folded = folding.transform(blob, names)
    assert len(operators(folded)) == len(operators(blob)) - fewer
    if not fewer:
        assert folded is blob
    x = np.random.default_rng(1).normal(MEAN, np.sqrt(VARIANCE), (6, *shape)).astype("float32")
    expected = run(blob, x)
    np.testing.assert_allclose(run(folded, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.usefixtures("_exact")
def test_a_kernel_that_others_read_and_values_that_others_read_stay(tmp_path):
    inputs = keras.Input((3,), name="x")
    shared = layers.Dense(5, name="shared")
    normal = layers.Normalization(mean=MEAN, variance=VARIANCE)(inputs)
    twice = keras.Model(inputs, [shared(normal), shared(inputs * 2.0)])
    both = keras.Model(inputs, [layers.Dense(5)(normal), layers.Dense(2)(normal)])
    x = np.random.default_rng(1).normal(MEAN, np.sqrt(VARIANCE), (4, 3)).astype("float32")
    for model, fewer in ((twice, 2), (both, 0)):
        path = tmp_path / f"{fewer}.tflite"
        export_tflite(model, path)
        blob = path.read_bytes()
        folded = folding.transform(blob, normalizing(blob))
        assert len(operators(folded)) == len(operators(blob)) - fewer
        before, after = LiteRT(blob), LiteRT(folded)
        for row in x:
            there, here = before({"x": row[None]}), after({"x": row[None]})
            for name, value in there.items():
                np.testing.assert_allclose(here[name], value, atol=1e-5 * np.abs(value).max())
