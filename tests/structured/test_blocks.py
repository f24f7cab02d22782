"""Which parts of a model can be bypassed, and which cannot."""

import keras
import pytest
from keras import layers, ops

import kprune
from kprune.structured import find_blocks


def _names(model):
    return [block.name for block in find_blocks(model)]


def _model(inputs, outputs):
    return keras.Model(inputs, outputs, name="model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ResNet50", 16 - 4),  # 16 blocks, of which the first of each stage has its own shortcut.
        ("ResNet50V2", 16 - 4 - 3),  # And the last of three stages pools.
        ("MobileNetV2", 10),
        ("EfficientNetB0", 9),  # 16 blocks; the first of each of the 7 stages changes the shape.
        ("ConvNeXtTiny", 3 + 3 + 9 + 3),
    ],
)
def test_applications_have_the_blocks_of_their_papers(name, number):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )
    report = find_blocks(model)
    assert [block.kind for block in report] == ["residual"] * number
    assert 0 < sum(block.flops for block in report) < report.flops
    assert report.flops == kprune.flops(model).total


def test_a_report_says_what_is_inside():
    x = inputs = keras.Input((6, 8))
    y = layers.Dense(16, name="up")(layers.LayerNormalization(name="norm")(x))
    x = layers.Add(name="end")([layers.Dense(8, name="down")(y), x])
    (block,) = report = find_blocks(_model(inputs, layers.Dense(2)(x)))
    assert (block.name, block.kind) == ("end", "residual")
    assert block.layers == ["norm", "up", "down"]
    assert block.parameters == 16 + 9 * 16 + 17 * 8
    assert block.flops == 6 * 2 * (8 * 16 + 16 * 8)
    assert "norm, up, down" in str(report)
    assert report.to_dict()["blocks"] == [block.to_dict()]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("operator", [False, True])
def test_additions_of_either_kind_and_order(swapped, operator):
    inputs = keras.Input((8,))
    x = layers.Dense(4)(inputs)
    pair = [x, layers.Dense(4, name="inside")(x)]
    pair = pair[::-1] if swapped else pair
    end = ops.add(*pair) if operator else layers.Add()(pair)
    (block,) = find_blocks(_model(inputs, layers.Dense(1)(end)))
    assert (block.kind, block.layers) == ("residual", ["inside"])


def test_a_shortcut_with_weights_is_no_block():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Add()([layers.Conv2D(4, 3, padding="same")(x), layers.Conv2D(4, 1)(x)])
    assert _names(_model(inputs, layers.Conv2D(2, 1)(x))) == []


def test_a_branch_that_is_used_elsewhere_is_no_block():
    inputs = keras.Input((4,))
    branch = layers.Dense(4)(inputs)
    end = layers.Add()([inputs, branch])
    head = layers.Dense(2)(layers.Concatenate()([end, branch]))
    # The branch alone can be bypassed: a Dense layer of as many units as it takes in.
    assert [block.kind for block in find_blocks(_model(inputs, head))] == ["layer"]
    assert [b.kind for b in find_blocks(_model(inputs, [layers.Dense(2)(end), branch]))] == []


def test_a_branch_may_take_what_was_made_before():
    inputs, scale = keras.Input((4,)), keras.Input((4,))
    x = layers.Dense(4)(layers.Dense(6)(inputs))
    y = layers.Multiply()([layers.Dense(4, name="inside")(x), scale])
    end = layers.Dense(1)(layers.Add(name="end")([x, y]))
    assert _names(_model([inputs, scale], end)) == ["end"]


def test_broadcasting_is_no_bypass():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8)(inputs)
    mean = ops.mean(x, axis=1, keepdims=True)
    end = layers.Add()([mean, ops.repeat(layers.Dense(8)(layers.Dense(5)(mean)), 6, axis=1)])
    assert _names(_model(inputs, layers.Dense(1)(end))) == []


def test_without_a_kernel_there_is_no_block():
    inputs = keras.Input((4,))
    x = layers.Dense(8)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Add()([x, layers.LayerNormalization()(layers.ReLU()(x))])
    assert _names(_model(inputs, layers.Dense(1)(x))) == []


def test_layers_of_the_shape_of_their_input():
    class Mixer(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, inputs):
            return ops.matmul(inputs, self.kernel)

    class Halves(Mixer):
        def call(self, inputs):
            return super().call(inputs)[:, ::2]

    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            layers.LSTM(8, return_sequences=True),
            layers.LSTM(8, return_sequences=True, name="stacked"),
            layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both_ways"),
            Mixer(name="mixer"),
            Halves(name="halves"),
            layers.Conv1D(8, 3, padding="same"),
            layers.LayerNormalization(),
            layers.Dense(8, name="equal"),
            keras.Sequential([layers.Dense(16), layers.Dense(8)], name="nested"),
            layers.GRU(8),
            layers.Dense(8, name="head"),
        ]
    )
    assert _names(model) == ["stacked", "both_ways", "mixer", "equal", "nested"]


def test_what_makes_an_output_of_the_model_is_no_block():
    inputs = keras.Input((4,))
    x = layers.Dense(8)(inputs)
    x = layers.Add()([x, layers.Dense(8)(x)])
    assert _names(_model(inputs, x)) == []
    assert "last" not in _names(_model(inputs, layers.Dense(8, name="last")(x)))


def test_blocks_in_nested_models_and_around_others():
    inner = keras.Input((8,))
    y = layers.Dense(8)(inner)
    nested = keras.Model(inner, layers.Add(name="inner")([y, layers.Dense(8)(y)]), name="nested")
    inputs = keras.Input((4,))
    x = layers.Dense(8)(inputs)
    x = layers.Add(name="outer")([x, nested(x)])
    outer, inside = find_blocks(_model(inputs, layers.Dense(1)(x)))
    assert (outer.name, inside.name) == ("outer", "inner")
    assert outer.overlaps(inside)
    assert inside.covered < outer.covered


def test_bad_input():
    with pytest.raises(TypeError):
        find_blocks(3)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"criterion.*Received: 'size'"):
        find_blocks(model, criterion="size")
    with pytest.raises(ValueError, match="free_dim=0"):
        find_blocks(model, free_dim=0)
