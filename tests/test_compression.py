import gzip
import json

import keras
import numpy as np
import pytest

import kprune
from kprune.export import VerificationError
from kprune.graphs.signature import describe
from kprune.training import at_risk
from kprune.training.clustering.weight_clustering import cluster_once, on_grid
from kprune.training.strip import find_pruning
from tests.helpers.runtimes import run_tflite
from tests.helpers.training import compiled, data, kernels, mlp, zeros


def fit(model, callbacks):
    x, y = data(256)
    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=callbacks)


def test_from_a_dense_model_to_a_gzipped_file(tmp_path):
    model, path = compiled(mlp()), tmp_path / "m.tflite.gz"
    report = kprune.compress(model, path, pruning=0.8, clusters=8, fit=fit)
    blob = gzip.decompress(path.read_bytes())
    assert (len(path.read_bytes()), len(blob)) == (report.gzipped_bytes, report.bytes)
    assert report.float32_bytes == 4 * report.parameters == 4 * model.count_params()
    assert report.ratio == report.float32_bytes / report.gzipped_bytes
    asked = {"first/kernel": 528, "second/kernel": 449, "head/kernel": 27}
    assert all(count >= asked[name] for name, count in zeros(model).items())
    for weight in report.export.weights:
        if weight.dtype == "int8":
            assert 0 < weight.values <= 8
            assert 0 < weight.entropy < 2
    (tmp_path / "m.tflite").write_bytes(blob)
    x, _ = data(1, seed=5)
    expected = model.predict(x, verbose=0)
    name = describe(model).flat[0].name
    (output,) = run_tflite(tmp_path / "m.tflite", {name: x}).values()
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert json.loads(json.dumps(report.to_dict()))["ratio"] == report.ratio
    assert "gzipped" in str(report)
    assert not find_pruning(model)
    watches = [variable.constraint for variable in model.trainable_variables]
    assert all(isinstance(one, at_risk.Watch) for one in watches if one is not None)
    kprune.compress(model, tmp_path / "again.tflite.gz", clusters=8)
    assert (tmp_path / "again.tflite.gz").read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "dynamic"])
def test_8_bits_with_the_zeros_held(tmp_path, quantize):
    model, (x, _) = compiled(mlp()), data(256)
    fit(model, [kprune.Pruning(0.8, allocation=kprune.Global())])
    before = {name: value == 0 for name, value in kernels(model).items()}
    report = kprune.compress(
        model, tmp_path / "m.tflite", quantize=quantize, fit=fit, representative_data=x
    )
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value == 0, before[name])
    stored = {w.name.split("/", 1)[1]: w for w in report.export.weights}
    for name, zero in before.items():
        assert stored[name].sparsity >= zero.mean() - 1e-9
    assert report.export.quantize == quantize
    assert (tmp_path / "m.tflite").stat().st_size == report.bytes


@pytest.mark.slow
def test_stripped_models_keep_their_zeros_in_fine_tuning(tmp_path):
    model, (x, _) = compiled(mlp()), data(256)
    fit(model, [kprune.Pruning(0.8, allocation=kprune.Global())])
    model = kprune.strip_pruning(model)
    before = {name: value == 0 for name, value in kernels(model).items()}
    options = {"quantize": "int8", "fit": fit, "representative_data": x}
    kprune.compress(model, tmp_path / "m.tflite", **options)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value == 0, before[name])
    assert not find_pruning(model)


def test_without_training(tmp_path):
    model = mlp()  # not compiled
    dense = kernels(model)
    report = kprune.compress(model, tmp_path / "m.tflite", clusters=64)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(on_grid(value), value)
        assert np.unique(value[value != 0]).size <= 64
        assert np.abs(value - dense[name]).max() < 0.1
    assert report.export.quantize == "codebook"


@pytest.mark.slow
def test_some_layers_only(tmp_path):
    layers = {"first": 4, "second": None}
    report = kprune.compress(mlp(), tmp_path / "m.tflite", layers=layers)
    found = {w.name.split("/")[-2]: w for w in report.export.weights}
    assert (found["first"].values, found["first"].dtype) == (4, "int8")
    assert found["second"].dtype == "float32"


class Unexpected(Exception):
    pass


def broken(model, callbacks):
    def stop(epoch, logs):
        raise Unexpected("in an epoch")

    fit(model, [*callbacks, keras.callbacks.LambdaCallback(on_epoch_end=stop)])


def untrained(model, callbacks):
    raise AssertionError("no training before the arguments are checked")


@pytest.mark.parametrize(
    ("path", "arguments", "error", "message"),
    [
        ("m.gz", {}, ValueError, r"\.tflite\.gz"),
        ("missing/m.tflite", {"fit": untrained}, FileNotFoundError, "missing"),
        ("m.tflite", {"quantize": "int4", "fit": untrained}, ValueError, "'int4'"),
        ("m.tflite", {"quantize": "codebook"}, ValueError, "'codebook'"),
        ("m.tflite", {"quantize": "int8", "clusters": 8}, ValueError, "not both"),
        ("m.tflite", {"quantize": "int8", "fit": untrained}, ValueError, "representative_data"),
        (
            "m.tflite",
            {"quantize": "int8", "representative_data": np.full((4, 20), np.nan), "fit": untrained},
            ValueError,
            "NaN",
        ),
        ("m.tflite", {"inputs": np.zeros((4, 3)), "fit": untrained}, ValueError, "inputs"),
        ("m.tflite", {"clusters": 300, "fit": untrained}, ValueError, "clusters=300"),
        ("m.tflite", {"pruning": 0.9}, ValueError, "needs `fit`"),
        ("m.tflite", {"pruning": 1.2, "fit": untrained}, ValueError, "1.2"),
        ("m.tflite", {"fit": "fit"}, TypeError, "fit='fit'"),
        ("m.tflite", {"batch_size": 0, "fit": untrained}, ValueError, "batch_size"),
        ("m.tflite", {"layers": "missing", "fit": untrained}, ValueError, "'missing'"),
        ("m.tflite", {"fit": lambda model, callbacks: None}, ValueError, "WeightClustering"),
        ("m.tflite.gz", {"fit": broken}, Unexpected, "in an epoch"),
    ],
)
def test_what_is_refused_leaves_no_file(tmp_path, path, arguments, error, message):
    model = compiled(mlp())
    with pytest.raises(error, match=message):
        kprune.compress(model, tmp_path / path, **arguments)
    assert not list(tmp_path.iterdir())
    watches = [variable.constraint for variable in model.trainable_variables]
    assert all(isinstance(one, at_risk.Watch) for one in watches if one is not None)


def test_a_file_that_fails_verification_is_not_written(tmp_path):
    path, (x, _) = tmp_path / "m.tflite.gz", data()
    path.write_bytes(b"what was there")
    # Calibrated on inputs of a hundredth of the size, the file cuts off what it is given.
    ranges = {"quantize": "int8", "representative_data": 0.01 * x, "inputs": x}
    with pytest.raises(VerificationError, match="root mean square"):
        kprune.compress(mlp(), path, **ranges)
    assert path.read_bytes() == b"what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite.gz"]


@pytest.mark.slow
def test_codes_of_weights_that_are_shared_already_do_not_change(tmp_path):
    model = mlp()
    cluster_once(model, 8)
    before = kernels(model)
    kprune.compress(model, tmp_path / "m.tflite")
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value, before[name])
