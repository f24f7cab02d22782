"""Models that leave their image's size open, judged and prepared at a size."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.dynamic_sizes import splice


def small_mobilenet(size):
    """One-sided padding, as in keras.applications, which depends on the size of the image."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((size, size, 3))
    x = layers.ReLU()(layers.Conv2D(16, 3, 2, padding="same", name="stem")(x))
    for number, stride in enumerate((1, 2, 1, 2)):
        depthwise = layers.DepthwiseConv2D(3, stride, padding="same", name=f"depthwise{number}")
        x = layers.ReLU()(depthwise(x))
        pointwise = layers.Conv2D(32, 1, name=f"pointwise{number}")
        x = layers.ReLU()(pointwise(x))
        kernel = np.array(pointwise.kernel)
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.85)] = 0
        pointwise.kernel.assign(kernel)
    return keras.Model(inputs, layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x)))


def rows(report):
    return [(layer.name, layer.verdict, layer.reason) for layer in report.layers]


@pytest.mark.parametrize("size", [64, 65])
def test_as_if_the_sizes_were_fixed(size):
    dynamic, fixed = small_mobilenet(None), small_mobilenet(size)
    shape = (size, size, 3)
    report, expected = (
        kprune.check(dynamic, "litert-arm64", input_shape=shape),
        kprune.check(fixed, "litert-arm64"),
    )
    assert rows(report) == rows(expected)
    assert report.estimated_gain == expected.estimated_gain
    assert any(str(shape) in note for note in report.notes)
    chosen = kprune.for_target(dynamic, "litert-arm64", channels=0.5, input_shape=shape)
    assert chosen.reasons == kprune.for_target(fixed, "litert-arm64", channels=0.5).reasons
    new, done = kprune.prepare(dynamic, "litert-arm64", input_shape=shape)
    _, expected = kprune.prepare(fixed, "litert-arm64")
    assert done.changes == expected.changes
    assert bool(done.changes) == (size == 64)
    assert new.inputs[0].shape == (None, None, None, 3)


def test_without_sizes_the_usual_ones():
    dynamic, shape = small_mobilenet(None), (224, 224, 3)
    report = kprune.check(dynamic, "litert-wasm")
    assert report.to_dict() == kprune.check(dynamic, "litert-wasm", input_shape=shape).to_dict()
    new, done = kprune.prepare(dynamic, "litert-wasm")
    assert kprune.check(new, "litert-wasm").estimated_gain > max(1.1, report.estimated_gain)
    assert {change.layer for change in done.changes} == {"stem", "depthwise1", "depthwise3"}
    assert any("10001" in note for note in kprune.check(splice(), "litert-wasm").notes)


def test_bad_sizes(tmp_path):
    model = small_mobilenet(None)
    for entrance in (kprune.check, kprune.prepare, kprune.for_target):
        with pytest.raises(ValueError, match=r"fixes dimension 3 .*at 3.*\(64, 64, 4\)"):
            entrance(model, "litert-arm64", input_shape=(64, 64, 4))
        with pytest.raises(ValueError, match=r"has not: \['x'\]"):
            entrance(model, "litert-arm64", input_shape={"x": (64, 64, 3)})
    with pytest.raises(ValueError, match="a file has sizes of its own"):
        kprune.check(tmp_path / "m.tflite", "litert-arm64", input_shape=(64, 64, 3))
