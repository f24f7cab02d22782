import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export import ExportError, VerificationError, tflm
from kprune.formats.tflite import lookup_tables
from kprune.runtimes.tflm import run_apart
from kprune.training.clustering.weight_clustering import cluster_once
from tests.helpers.runtimes import SKIP, fresh_inputs, keras_outputs, needs_tensorflow

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def run_micro(path, *inputs):
    """Run a file the plain way, without any of kprune's code."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=2**22)
    for at, value in enumerate(inputs):
        interpreter.set_input(value, at)
    interpreter.invoke()
    return interpreter.get_output(0)


def network():
    return keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(32, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(gamma_initializer="random_normal"),
            layers.ReLU(),
            layers.Conv2DTranspose(16, 3, strides=2, name="transposed"),
            layers.DepthwiseConv2D(5, depth_multiplier=2, name="depthwise"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )


def samples(model, count=64):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def test_clusters_are_in_lookup_tables_and_the_outputs_are_keras_own(tmp_path):
    model, path = network(), tmp_path / "m.tflite"
    cluster_once(model, 16)
    report = kprune.export_tflite(model, path, quantize="codebook", target="tflm")
    assert {weight.name.split("/")[-2]: weight.encoding for weight in report.weights} == {
        "conv": "4-bit table",
        "transposed": "4-bit table",
        "depthwise": "4-bit table",
        "head": "4-bit table",
    }
    assert all(1 < weight.values <= 16 * 32 for weight in report.weights)
    assert report.bytes == path.stat().st_size < 0.2 * 4 * model.count_params()
    assert "arena" in str(report)
    assert any("are in lookup tables" in note for note in report.notes)
    assert run_apart(path.read_bytes(), [], []).arena_bytes == report.arena_bytes
    assert report.to_dict()["arena_bytes"] == report.arena_bytes
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    assert kprune.measure.size(path).parameters == sum(kernel.size for kernel in kernels)
    assert kprune.check(path, "tflm").ok
    elsewhere = kprune.check(path, "litert-x86")
    assert not elsewhere.ok
    assert "TensorFlow Lite Micro's lookup tables, not for LiteRT" in str(elsewhere.layers[0])
    arguments, feed = fresh_inputs(model, 1)
    expected = keras_outputs(model, arguments)[0]
    np.testing.assert_allclose(run_micro(path, *feed.values()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_clusters_of_integers_are_in_lookup_tables_too(tmp_path, quantize):
    model, path = network(), tmp_path / "m.tflite"
    dense, few = {}, {}
    for clusters, found in ((255, dense), (16, few)):
        cluster_once(model, clusters)
        report = kprune.export_tflite(model, path, quantize, samples(model), target="tflm")
        found |= {weight.name.split("/")[-2]: weight.encoding for weight in report.weights}
        found["bytes"], found["output"] = report.bytes, run_micro(path, samples(model, 1))
    assert dense["conv"] == dense["head"] == "dense"
    assert few["head"] == few["transposed"] == "4-bit table"
    assert few["bytes"] < 0.75 * dense["bytes"]
    kprune.export_tflite(model, path, quantize, samples(model))
    np.testing.assert_allclose(few["output"], run_micro(path, samples(model, 1)), atol=0)


@pytest.mark.slow
def test_without_quantize_clusters_are_plain_floats(tmp_path):
    model = network()
    cluster_once(model, 16)
    report = kprune.export_tflite(model, tmp_path / "m.tflite", target="tflm")
    assert {weight.encoding for weight in report.weights} == {"dense"}
    output = run_micro(tmp_path / "m.tflite", samples(model, 1))
    np.testing.assert_allclose(output, np.array(model(samples(model, 1))), rtol=1e-4, atol=1e-6)


def test_what_it_does_not_run_is_refused_before_anything_is_done(tmp_path):
    model = network()
    for options, message in (
        ({"sparse": True}, r"'tflm' reads no sparse weights.*prune_channels.*WeightClustering"),
        ({"quantize": "dynamic"}, r"'tflm' runs files with quantize in .*'int8'.*'dynamic'"),
        ({"quantize": "float16"}, r"'tflm' runs files with quantize in .*'codebook'.*'float16'"),
        ({"batch_size": None}, "'tflm' runs files of a fixed batch size only"),
    ):
        with pytest.raises(ValueError, match=message):
            kprune.export_tflite(model, tmp_path / "m.tflite", target="tflm", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_it_lacks_is_named_with_its_layer(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 4, 1)), layers.Conv3D(2, 2, name="volume"), layers.Flatten()]
    )
    with pytest.raises(ExportError, match=r"'volume.*\(CONV_3D\): TensorFlow Lite Micro has no"):
        kprune.export_tflite(model, tmp_path / "m.tflite", target="tflm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_type_that_an_operator_lacks_is_named_by_the_interpreter(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="softplus")])
    with pytest.raises(ExportError, match=r"(?s)not in TensorFlow Lite Micro.*exp\.cc.*Node EXP"):
        kprune.export_tflite(model, tmp_path / "m.tflite", "int8", samples(model), target="tflm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_that_no_table_holds(tmp_path):
    model = network()
    for clusters, message in ((None, "none has 128 values"), (200, "none has 128 values")):
        if clusters:
            cluster_once(model, clusters)
        with pytest.raises(ExportError, match=message):
            kprune.export_tflite(model, tmp_path / "m.tflite", quantize="codebook", target="tflm")
    small = keras.Sequential([keras.Input((8,)), layers.Dense(20)])
    cluster_once(small, 16)
    with pytest.raises(ExportError, match="too small to be smaller so"):
        kprune.export_tflite(small, tmp_path / "m.tflite", quantize="codebook", target="tflm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tables_that_the_interpreter_reads_otherwise_are_found_out(tmp_path, monkeypatch):
    model = network()
    cluster_once(model, 16)
    original = lookup_tables.transform

    def one_table(blob, tables):
        wrong = {index: table._replace(axis=None, bits=7) for index, table in tables.items()}
        return original(blob, wrong)

    monkeypatch.setattr(lookup_tables, "transform", one_table)
    with pytest.raises(VerificationError, match="lookup tables otherwise"):
        kprune.export_tflite(model, tmp_path / "m.tflite", "int8", samples(model), target="tflm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_outputs_unlike_litert_s_are_refused(tmp_path, monkeypatch, quantize):
    model = network()

    def otherwise(*args):
        runs = run_apart(*args)
        return dataclasses.replace(runs, outputs=[[one + 0.5] for (one,) in runs.outputs])

    monkeypatch.setattr(tflm, "run_apart", otherwise)
    with pytest.raises(VerificationError, match="between TensorFlow Lite Micro and LiteRT"):
        kprune.export_tflite(model, tmp_path / "m.tflite", quantize, samples(model), target="tflm")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_are_left_open_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(4, 3)])
    with pytest.raises(ExportError, match=r"'tflm' runs files of fixed sizes only.*dimension 1"):
        kprune.export_tflite(model, tmp_path / "m.tflite", target="tflm")
    assert list(tmp_path.iterdir()) == []


def recurrent(*inside):
    head = layers.Dense(9, activation="softmax", name="head")
    return keras.Sequential([keras.Input((12, 6)), *inside, head])


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8", "int16x8"])
@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_recurrent_networks(tmp_path, layer, quantize):
    model, path = recurrent(layer(16)), tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path, quantize, samples(model), target="tflm")
    assert report.arena_bytes < 2**17
    # A loop in floats, unrolled in integers.
    from kprune.formats.tflite.operators import tflite_operators

    loops = [name for name, _ in tflite_operators(path.read_bytes()) if name == "WHILE"]
    assert len(loops) == (quantize is None)
    output = run_micro(path, samples(model, 1))
    atol = 1e-6 if quantize is None else 0.05
    np.testing.assert_allclose(output, np.array(model(samples(model, 1))), rtol=1e-4, atol=atol)


@pytest.mark.slow
def test_a_loop_that_hangs_or_goes_wrong_is_unrolled(tmp_path):
    model = recurrent(layers.LSTM(8, return_sequences=True), layers.GlobalAveragePooling1D())
    path = tmp_path / "m.tflite"
    report = kprune.export_tflite(model, path, target="tflm")
    assert any("unrolled over time" in note for note in report.notes)
    output = run_micro(path, samples(model, 1))
    np.testing.assert_allclose(output, np.array(model(samples(model, 1))), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_several_inputs_and_outputs_and_a_batch(tmp_path):
    x, more = keras.Input((4,), name="x"), keras.Input((5,), name="more")
    outputs = [layers.Dense(3, name="y")(x), layers.Concatenate(name="both")([x, more])]
    model = keras.Model([x, more], outputs)
    report = kprune.export_tflite(model, tmp_path / "m.tflite", batch_size=3, target="tflm")
    assert [output.name for output in report.outputs] == ["y", "both"]
    assert "'both' differs by up to 0" in report.notes[-1]


def test_the_extra_is_named_where_the_package_is_missing(tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "tflite_micro" else original(n, *a)
    )
    with pytest.raises(ImportError, match=r'tflite_micro.*pip install "kprune\[tflm\]"'):
        kprune.export_tflite(network(), tmp_path / "m.tflite", target="tflm")
