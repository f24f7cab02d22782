"""Rewrites: the same function, on a copy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kprune
from kprune.targets import from_keras, xnnpack
from kprune.targets.rewrites import (
    _call_depthwise,
    call_otherwise,
    padding_before,
    rewrite,
    skip_padding,
    symmetric_form,
)
from tests.helpers.target_graphs import GRAPHS, model


def outputs(built, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(built(x, training=False))]


def same(a, b, x):
    for one, other in zip(outputs(a, x), outputs(b, x), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * max(1e-6, np.abs(one).max()))


def images(shape, count=2):
    return np.random.default_rng(1).normal(size=(count, *shape)).astype("float32")


@settings(max_examples=40)
@given(
    size=st.sampled_from([3, 5]),
    image=st.integers(6, 13),
    stride=st.sampled_from([1, 2]),
    padding=st.one_of(
        st.just("same"),
        st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2))).map(lambda p: p * 2),
    ),
)
def test_symmetric_forms_are_equal(size, image, stride, padding):
    inputs = x = keras.Input((image, image, 3))
    if padding != "same":
        x = layers.ZeroPadding2D(padding)(x)
    if min(x.shape[1:3]) < size:
        return
    mode = "same" if padding == "same" else "valid"
    x = layers.DepthwiseConv2D(size, strides=stride, padding=mode, name="dw")(x)
    built = keras.Model(inputs, x)
    graph = from_keras.read(built)
    op = graph.ops[-1]
    form = symmetric_form(op, padding_before(graph, op))
    if form is None:
        return
    calls = {"dw": _call_depthwise(*form)}
    assert skip_padding(graph, op, calls)
    same(built, call_otherwise(built, calls), images((image, image, 3)))


def test_what_stock_models_have_has_a_form():
    for padding, size, expected in [
        (((0, 1), (0, 1)), 3, (5, 2)),
        (((1, 1), (1, 1)), 3, (3, 0)),
        (((1, 2), (1, 2)), 5, None),
    ]:
        inputs = keras.Input((16, 16, 3))
        x = layers.DepthwiseConv2D(size, strides=2)(layers.ZeroPadding2D(padding)(inputs))
        graph = from_keras.read(keras.Model(inputs, x))
        assert symmetric_form(graph.ops[-1], padding_before(graph, graph.ops[-1])) == expected


@pytest.mark.fast_for("plain", "residual", "squeeze_and_excite", "parametric", "flattened_mean")
@pytest.mark.parametrize("name", GRAPHS)
def test_rewritten_models_are_right_and_equal(name):
    built = model(name)
    before = [np.array(w) for w in built.get_weights()]
    nodes = [len(layer._inbound_nodes) for layer in built.layers]
    new, done = rewrite(built)
    fate = GRAPHS[name][1]
    assert bool(done) == (fate in ("wrong", "fails"))
    if done:
        same(built, new, images((32, 32, 3)))
        found = xnnpack.clusters(from_keras.read(new))
        assert not any(cluster.broken for cluster in found if cluster.changed)
    else:
        assert new is built
    assert nodes == [len(layer._inbound_nodes) for layer in built.layers]
    for now, then in zip(built.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    "name", ["same_depthwise", "asymmetric_depthwise", "convolution_after_mean"]
)
def test_what_has_an_equal_form_becomes_fast(name):
    new, done = rewrite(model(name))
    assert len(done) == 1
    assert any(cluster.changed for cluster in xnnpack.clusters(from_keras.read(new)))


def test_nothing_is_rewritten_for_other_targets_or_without_zeros():
    built = model("asymmetric_depthwise")
    assert rewrite(built, "litert-x86") == (built, [])
    dense = model("asymmetric_depthwise", sparsity=0.5)
    assert rewrite(dense) == (dense, [])


def test_models_in_models_stay_and_are_shared():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a")], name="inner")
    other = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a")], name="other")
    x = inputs = keras.Input((4,))
    built = keras.Model({"in": inputs}, {"out": inner(other(inner(x)))})
    x = {"in": images((4,))}
    new = call_otherwise(built, {})
    same(built, new, x)
    assert len(new.weights) == 4
    assert {layer.name for layer in new.layers if layer.weights} == {"inner", "other"}


def test_a_layer_in_a_nested_model_is_called_otherwise():
    images_in = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="first")(images_in)
    backbone = keras.Sequential([keras.Input((4, 4, 4)), layers.BatchNormalization()], name="rest")
    inner = keras.Model(images_in, backbone(x), name="inner")
    inner.trainable = False
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inner(inputs, training=False))
    built = keras.Model(inputs, layers.Dense(2, name="head")(x))
    new, report = kprune.prepare(built, "litert-arm64")
    assert [change.layer for change in report.changes] == ["first"]
    assert new.get_layer("inner").get_layer("first").padding == "valid"
    # Fine-tuning goes on as planned: the frozen model is, and its statistics stay.
    assert [v.path for v in new.trainable_variables] == ["head/kernel", "head/bias"]
    before = new.get_layer("inner").get_weights()
    new(images((8, 8, 3)), training=True)
    for now, then in zip(new.get_layer("inner").get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_prepare_measures_the_difference():
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="first")(inputs)
    x = layers.DepthwiseConv2D(5, strides=2, padding="same", name="large")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="small")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 1)(x))
    built = keras.Model(inputs, layers.Dense(4)(x))
    new, report = kprune.prepare(built, "litert-arm64")
    assert [change.layer for change in report.changes] == ["first", "large", "small"]
    assert "padding ((0, 1), (0, 1)) as ((1, 1), (1, 1))" in str(report)
    assert [shape.shape for shape in new.weights] == [shape.shape for shape in built.weights]
    for now, then in zip(new.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)
    x = images((32, 32, 3))
    _, report = kprune.prepare(built, "litert-arm64", inputs=x)
    difference = np.abs(outputs(new, x)[0] - outputs(built, x)[0]).max()
    assert report.outputs[0].max_abs_diff == pytest.approx(difference, rel=1e-3)
    assert report.outputs[0].max_abs_diff > 0
    assert kprune.prepare(new, "litert-arm64")[0] is new
    assert kprune.prepare(built, "litert-x86")[0] is built


def test_prepare_needs_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"subclassed.*ZeroPadding2D\(1\)"):
        kprune.prepare(Own(), "litert-wasm")
