"""`for_target` and TFMOT's policy, as they plug into training."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.targets import TARGETS
from tests.helpers.partly_built import Detector, rows
from tests.helpers.target_graphs import depthwise, mean, model, pointwise, stem

_SCHEDULE = kprune.ConstantSparsity(0.75, begin_step=0, frequency=1)


def train(built, *callbacks):
    built.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, *built.input_shape[1:])).astype("float32")
    y = np.zeros((8, *built.output_shape[1:]), "float32")
    built.fit(x, y, batch_size=2, epochs=4, verbose=0, callbacks=list(callbacks))


def share(variable):
    value = keras.ops.convert_to_numpy(variable)
    return 1 - np.count_nonzero(value) / value.size


def test_plugs_into_pruning():
    built = model("same_depthwise", sparsity=0.0)
    chosen = kprune.for_target(built, "litert-arm64", sparsity=0.85)
    patterns = {name: setting["pattern"] for name, setting in chosen.items()}
    head = built.layers[-1].name
    assert patterns.pop(head) == kprune.Block((4, 1))
    assert set(patterns.values()) == {kprune.Unstructured()}
    assert len(patterns) == 3
    assert "no sparse kernel" in chosen.reasons["stem"]
    assert "a 1x1 convolution on XNNPACK's sparse path" in str(chosen)
    train(built, kprune.Pruning(layers=chosen))
    for layer in built.layers:
        if hasattr(layer, "kernel"):
            expected = 0.85 if layer.name in chosen else 0.0
            assert share(layer.kernel) == pytest.approx(expected, abs=0.02)
    report = kprune.check(kprune.strip_pruning(built), "litert-arm64")
    assert report.ok
    faster = {layer.name for layer in report.layers if layer.verdict == "sparse and faster"}
    assert faster == set(chosen)


def test_two_lines_with_a_target():
    """As with what `for_target` returns; and what `prepare` would add is said."""
    built = model("same_depthwise", sparsity=0.0)
    chosen = kprune.for_target(built, "litert-arm64", sparsity=0.85)
    with pytest.warns(UserWarning, match=r"dw3.*kprune\.prepare\(model, 'litert-arm64'\)"):
        train(built, kprune.Pruning(0.85, target="litert-arm64"))
    for layer in built.layers:
        if hasattr(layer, "kernel"):
            expected = 0.85 if layer.name in chosen else 0.0
            assert share(layer.kernel) == pytest.approx(expected, abs=0.02)
    assert kprune.check(kprune.strip_pruning(built), "litert-arm64").estimated_gain > 1.5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"target": "litert"}, "must be one of"),
        ({"target": "onnxruntime"}, r"no use for zeros.*Channels\(round_to=8\).*prune_channels"),
        ({"target": "litert-x86", "layers": ["head"]}, "without `layers` and `pattern`"),
        ({"target": "litert-x86", "pattern": kprune.Block((4, 1))}, "without `layers`"),
        ({"target": "litert-x86", "sparsity": 0.0}, "give a `sparsity` above 0"),
    ],
)
def test_a_target_that_cannot_be_is_refused_at_once(arguments, match):
    with pytest.raises(ValueError, match=match):
        kprune.Pruning(**{"sparsity": 0.85} | arguments)


def test_a_target_that_nothing_is_faster_on_leaves_the_model_as_it_was():
    built = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(4, 3), layers.Flatten()])
    with pytest.raises(ValueError, match=r"Nothing in .* would be faster on litert-x86"):
        train(built, kprune.Pruning(0.85, target="litert-x86"))
    assert kprune.strip_pruning(built) is built
    assert share(built.layers[0].kernel) == 0


def test_a_target_of_ones_own():
    rule = dataclasses.replace(TARGETS["litert-wasm"].rule("blocks"), more_than=0.5)
    mine = dataclasses.replace(TARGETS["litert-wasm"], name="mine", rules=(rule,))
    built = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="fc")])
    train(built, kprune.Pruning(0.6, target=mine))
    assert share(built.layers[0].kernel) == pytest.approx(0.6, abs=0.01)
    with pytest.raises(ValueError, match="Nothing in"):
        train(built, kprune.Pruning(0.6, target="litert-wasm"))


def test_the_sparsity_of_a_schedule_decides_for_a_target():
    built = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="wide")])
    schedule = kprune.PolynomialDecay(0.0, 0.9, 0, 8, frequency=1)
    train(built, kprune.Pruning(schedule=schedule, target="litert-wasm"))
    assert share(built.get_layer("wide").kernel) == pytest.approx(0.9, abs=0.01)
    blocks = keras.ops.convert_to_numpy(built.get_layer("wide").kernel).reshape(16, 4, 32)
    assert ((blocks == 0).all(axis=1) == (blocks == 0).any(axis=1)).all()


def test_says_why_nothing_is_faster():
    built = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="wide")])
    assert set(kprune.for_target(built, "litert-x86", 0.7)) == {"wide"}
    with pytest.raises(ValueError, match=r"wide: blocks of .* only with more than 87\.01% zeros"):
        kprune.for_target(built, "litert-wasm", 0.7)
    with pytest.raises(ValueError, match=r"onnxruntime has no sparse kernels.*: channels=0.5"):
        kprune.for_target(built, "onnxruntime")
    with pytest.raises(ValueError, match=r"wide: .*its channels stay: an output of the model"):
        kprune.for_target(built, "onnxruntime", channels=0.5)
    odd = keras.Sequential([keras.Input((63,)), layers.Dense(32)])
    with pytest.raises(ValueError, match="63 inputs do not divide into blocks of 4"):
        kprune.for_target(odd, "litert-x86")
    with pytest.raises(ValueError, match="must be one of"):
        kprune.for_target(built, "tpu")
    with pytest.raises(ValueError, match="sparsity"):
        kprune.for_target(built, "litert-x86", 85)
    with pytest.raises(ValueError, match="`channels` must be a number"):
        kprune.for_target(built, "litert-x86", channels=True)


def two_branches():
    """A branch for the sparse path, and one of larger convolutions; dense layers after them."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = stem(inputs)
    x = pointwise(pointwise(depthwise(x), 32, name="first"), 32, name="second")
    x = layers.Dense(48, activation="relu", name="dense")(mean(x))
    y = layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False, name="larger")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="last")(y)
    head = layers.Dense(10, name="head")(layers.Concatenate()([x, mean(y)]))
    return keras.Model(inputs, head)


_SPARSE = {"first": 0.9, "second": 0.9, "dense": 0.9, "head": 0.9}
_CHANNELS = {  # of each target: what is sparse, and how many channels are left
    "litert-arm64": (_SPARSE, {"larger": 16}),
    "litert-wasm": (_SPARSE, {"larger": 16}),
    "litert-x86": ({"dense": 0.9, "head": 0.9}, {"larger": 16, "first": 16}),
    "onnxruntime": ({}, {"larger": 16, "first": 16, "second": 16, "last": 16, "dense": 24}),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", _CHANNELS)
def test_channels(target, tmp_path):
    built, (sparse, sizes) = two_branches(), _CHANNELS[target]
    chosen = kprune.for_target(built, target, sparsity=0.9, channels=0.5)
    assert set(chosen) == {*sparse, *sizes}
    assert chosen.channels == [name for name in chosen if name in sizes]
    if target in ("litert-x86", "onnxruntime"):
        assert "of its 8 channels a multiple of 8 stays: all" in chosen.reasons["stem"]
    if "head" in sparse:
        assert "are those of 'head', which has another pattern" in chosen.reasons["last"]
    train(built, kprune.Pruning(layers=chosen))
    stripped = kprune.strip_pruning(built)
    for name, expected in sparse.items():
        assert share(stripped.get_layer(name).kernel) == pytest.approx(expected, abs=0.01)
    small = kprune.shrink(stripped, layers=chosen.channels)
    for name, layer in {each.name: each for each in built.layers if each.weights}.items():
        now = small.get_layer(name)
        if hasattr(now, "kernel") and not isinstance(now, layers.DepthwiseConv2D):
            assert now.kernel.shape[-1] == sizes.get(name, layer.kernel.shape[-1])
            assert share(now.kernel) == pytest.approx(sparse.get(name, 0.0), abs=0.01)
    x = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype("float32")
    outputs = [keras.ops.convert_to_numpy(each(x, training=False)) for each in (built, small)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    verdicts = kprune.check(small, target).layers
    faster = {layer.name for layer in verdicts if layer.verdict == "sparse and faster"}
    assert faster == set(sparse)
    if keras.backend.backend() != "tensorflow":
        return
    if target == "onnxruntime":
        kprune.export_onnx(small, tmp_path / "small.onnx")
    else:
        report = kprune.export_tflite(small, tmp_path / "small.tflite", target=target)
        assert {
            weight.name.split("/")[0] for weight in report.weights if weight.encoding == "sparse"
        } == set(sparse)


@pytest.mark.slow
def test_channels_of_recurrent_layers():
    inputs = keras.Input((6, 8))
    x = layers.Bidirectional(layers.GRU(16, return_sequences=True, name="gru"), name="both")(inputs)
    x = layers.LSTM(24, name="lstm")(x)
    x = layers.Dense(16, name="dense")(layers.LayerNormalization()(x))
    built = keras.Model(inputs, layers.Dense(4, name="head")(x))
    chosen = kprune.for_target(built, "onnxruntime", channels=0.5)
    assert set(chosen) == {"both", "dense"}
    assert "LayerNormalization" in chosen.reasons["lstm"]
    assert len({id(setting) for setting in chosen.values()}) == 1
    train(built, kprune.Pruning(layers=chosen))
    small = kprune.shrink(kprune.strip_pruning(built), layers=chosen.channels)
    assert small.get_layer("both").forward_layer.units == 8
    assert small.get_layer("lstm").units == 24
    assert small.get_layer("dense").units == 8
    # With a sparse kernel for the dense layers, their inputs stay.
    chosen = kprune.for_target(built, "litert-x86", sparsity=0.8, channels=0.5)
    assert {name: str(one["pattern"])[:5] for name, one in chosen.items()} == {
        "both": "Chann",
        "dense": "Block",
        "head": "Block",
    }


@pytest.mark.slow
def test_shrink_keeps_blocks_of_layers_it_is_not_told():
    keras.utils.set_random_seed(0)
    built = keras.Sequential(
        [
            *(keras.Input((16, 16, 3)), layers.Conv2D(16, 3, name="larger")),
            *(layers.Conv2D(16, 3), layers.GlobalAveragePooling2D()),
            layers.Dense(32, activation="relu", name="wide"),
            *(layers.Dense(64, activation="relu", name="next"), layers.Dense(8)),
        ]
    )
    chosen = kprune.for_target(built, "litert-x86", sparsity=0.8, channels=0.5)
    assert chosen.channels == ["larger"]
    train(built, kprune.Pruning(layers=chosen))

    def blocks(model):
        verdicts = kprune.check(model, "litert-x86").layers
        return {each.name for each in verdicts if each.verdict == "sparse and faster"}

    stripped = kprune.strip_pruning(built)
    told = kprune.shrink(stripped, layers=chosen.channels)
    assert told.get_layer("larger").filters == 8
    assert blocks(told) == blocks(stripped) == set(chosen) - {"larger"}
    # Of 4 blocks a unit, 0.8 of them zero, all are zero in some units.
    everything = kprune.shrink(stripped)
    assert everything.get_layer("wide").units < 32
    assert "next" not in blocks(everything)


def test_policy():
    policy = kprune.PruneForLatencyOnXNNPack()
    built = model("plain", sparsity=0.0)
    wrapped = kprune.prune_low_magnitude(built, _SCHEDULE, pruning_policy=policy)
    names = [layer.layer.kernel_size for layer in wrapped.layers if hasattr(layer, "layer")]
    assert names == [(1, 1)] * 2
    train(wrapped, kprune.UpdatePruningStep())
    stripped = kprune.strip_pruning(wrapped)
    assert [share(layer.kernel) for layer in stripped.layers if hasattr(layer, "kernel")] == [
        *(0.0, 0.0, 0.75, 0.75, 0.0)
    ]
    with pytest.raises(ValueError, match="'stem' begins with padding"):
        kprune.prune_low_magnitude(model("asymmetric_stem"), pruning_policy=policy)
    with pytest.raises(ValueError, match="not built"):
        kprune.prune_low_magnitude(keras.Model(), pruning_policy=policy)
    detector = Detector()
    detector(rows(6))
    with pytest.raises(ValueError, match="subclassed"):
        kprune.prune_low_magnitude(detector, pruning_policy=policy)
