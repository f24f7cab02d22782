"""The sparse path as foreseen, from models and from files; in the browser: tests/measure."""

import keras
import pytest

import kprune
from kprune.targets import from_keras, from_tflite, xnnpack
from tests.helpers.runtimes import SKIP, needs_tensorflow
from tests.helpers.target_graphs import GRAPHS, as_it_is, model

_EFFECTS = {"wrong": xnnpack.WRONG, "fails": xnnpack.FAILS}


def fate(graph):
    changed = [cluster for cluster in xnnpack.clusters(graph) if cluster.changed]
    effects = {effect for cluster in changed for _, effect, *_ in cluster.broken}
    if xnnpack.FAILS in effects:
        return "fails"
    return "wrong" if effects else "fast" if changed else "dense"


@pytest.mark.parametrize("name", GRAPHS)
def test_models(name):
    assert fate(from_keras.read(model(name))) == GRAPHS[name][1]


@pytest.mark.fast_for(
    "plain", "mean_is_output", "residual", "asymmetric_stem", "nested", "flattened_mean"
)
@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
@pytest.mark.parametrize("name", GRAPHS)
def test_files(name):
    assert fate(from_tflite.read(as_it_is(name))) == GRAPHS[name][1]


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_dense_files_are_not_on_the_sparse_path():
    assert fate(from_tflite.read(as_it_is("convolution_after_mean", False))) == "dense"


@pytest.mark.parametrize(("sparsity", "expected"), [(0.66, "dense"), (0.67, "fast")])
def test_more_than_two_thirds_are_needed(sparsity, expected):
    assert fate(from_keras.read(model("plain", sparsity))) == expected


def test_two_thirds_in_whole_numbers():
    cluster = xnnpack.Cluster([], weights=9, zeros=6)
    assert not cluster.enough
    assert xnnpack.Cluster([], weights=9, zeros=7).enough


@pytest.mark.slow
@pytest.mark.parametrize("build", [keras.applications.MobileNet, keras.applications.MobileNetV2])
def test_stock_models_are_one_cluster_once_prepared(build):
    stock = build(weights=None, input_shape=(64, 64, 3), classes=8)
    with pytest.raises(ValueError, match=r"begins with `same` padding.*kprune\.prepare"):
        kprune.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(stock)
    prepared, _ = kprune.prepare(stock, "litert-wasm")
    chosen = kprune.for_target(prepared, "litert-wasm", sparsity=0.85)
    convolutions = {
        layer.name
        for layer in stock.layers
        if isinstance(layer, keras.layers.Conv2D)
        and layer.kernel_size == (1, 1)
        and layer.name != "conv_preds"
    }
    assert set(chosen) == convolutions
