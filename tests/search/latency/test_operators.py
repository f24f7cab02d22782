"""Each operator of a real file, alone in a file: it runs, also at the sizes of a cut."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.formats.single_operator import order_from_outputs
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.search.latency.cuts import Cuts
from kprune.search.latency.operators import exported, operators_of
from tests.helpers.clock import net

RUNTIMES = {"tflite": LiteRT, "onnx": OnnxRuntime}


def convolutions():
    """Grouped and depthwise ones, a concatenation, a flattening, padding and slices."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu6")(inputs)
    y = layers.DepthwiseConv2D(3, strides=2, padding="same")(layers.ZeroPadding2D(1)(x))
    x = layers.MaxPooling2D(2, padding="same")(layers.BatchNormalization()(x))
    x = layers.Concatenate()([x, layers.Cropping2D(((0, 1), (0, 1)))(y)])
    x = layers.Conv2DTranspose(24, 2, strides=2)(layers.Conv2D(32, 3, groups=2)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(layers.ReLU()(x))))


def attention():
    inputs = keras.Input((6, 24))
    x = layers.MultiHeadAttention(4, 8)(inputs, inputs)
    x = layers.LayerNormalization()(layers.add([inputs, x]))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(40, activation="gelu")(x)))


def recurrent():
    inputs = keras.Input((6, 5))
    x = layers.LSTM(16, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GRU(12)(x)))


def narrow_dense():
    """A DenseNet that grows by 4 channels a block: many groups of few."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(5):
        y = layers.Conv2D(16, 1, activation="relu")(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(y)])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def squeezed():
    """Squeeze-and-excite through two channels."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(24, 3, padding="same")(inputs)
    for _ in range(4):
        y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
        z = layers.Conv2D(2, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
        z = layers.Conv2D(24, 1, activation="sigmoid")(z)
        x = layers.add([x, layers.multiply([y, z])])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def run(runtime, blob):
    file = runtime(blob, 1)
    feeds = {name: np.zeros(dims, dtype) for name, (dims, dtype, _) in file.inputs.items()}
    return [value.shape for value in file(feeds).values()]


SLOW = (convolutions, attention, recurrent, narrow_dense, squeezed)


@pytest.mark.parametrize("format", RUNTIMES)
@pytest.mark.parametrize(
    "make",
    [
        net,
        *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW),
    ],
)
def test_operators_of_a_cut_are_foretold_and_run_alone(make, format, tmp_path):
    cuts = Cuts(make(), format)
    assert cuts.notes == []
    kept = np.where(cuts.free, np.maximum(1, cuts.counts * 5 // 8), cuts.counts)
    exported(cuts.cut(kept), tmp_path / f"cut.{format}", format)
    there = operators_of(tmp_path / f"cut.{format}")
    foretold = cuts.requests(kept)
    assert [one.name for one in there] == [one.name for one, _ in foretold]
    for real, (operator, shapes) in zip(there, foretold):
        assert shapes == real.shapes
        assert run(RUNTIMES[format], operator.file(shapes)) == run(
            RUNTIMES[format], real.file(real.shapes)
        )
        assert operator.work(shapes) <= operator.work(operator.shapes)


@pytest.mark.slow
def test_two_heads_stay_where_one_has_other_operators(tmp_path):
    inputs = keras.Input((6, 24))
    x = layers.MultiHeadAttention(2, 8, name="two")(inputs, inputs)
    cuts = Cuts(keras.Model(inputs, layers.Dense(3)(layers.Dense(40)(x))), "tflite")
    assert cuts.operators
    assert [note for note in cuts.notes if "small groups" in note and "two" in note]
    kept = np.where(cuts.free & (cuts.counts > 2), cuts.counts // 2, cuts.counts)
    exported(cuts.cut(kept), tmp_path / "cut.tflite", "tflite")
    there = operators_of(tmp_path / "cut.tflite")
    assert [shapes for _, shapes in cuts.requests(kept)] == [one.shapes for one in there]


@pytest.mark.slow
def test_export_leaves_the_weights_as_they_were(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.BatchNormalization()])
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
    exported(model, tmp_path / "m.tflite", "tflite")
    for old, variable in zip(before, model.variables):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_the_order_is_the_graphs_own():
    #  a -> b -> d, a -> c -> d, and one that no output needs
    reads = {"a": ["x"], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["x"]}
    for names in ("abcde", "ecabd", "acbde"):
        order = order_from_outputs([reads[n] for n in names], [[n] for n in names], ["d"])
        assert "".join(names[i] for i in order) == "abcde"
