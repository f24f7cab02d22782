"""Each layer pruned alone: the figures, a scan that goes on, one in several processes."""

import json

import joblib
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.oneshot import sensitivity


def _data():
    x = np.random.default_rng(0).normal(size=(200, 10)).astype("float32")
    return x, (x @ np.arange(10, dtype="float32"))[:, None]


def _model(compiled=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(16, "relu", name="first"),
            layers.Dense(1, name="last"),
        ],
        name="scanned",
    )
    if compiled:
        model.compile("sgd", "mse", metrics=["mae"])
    return model


def _same(model, weights):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights))


def test_the_figures_are_those_of_the_pruned_model():
    model, (x, y) = _model(), _data()
    before = model.get_weights()
    report = kprune.sensitivity_scan(model, (x, y), sparsities=[0.25, 0.75])
    assert _same(model, before)
    assert (report.metric, report.mode) == ("mae", "min")
    assert list(report.values) == ["first", "last"]
    kernel = before[0].copy()
    kernel[np.abs(kernel) <= np.sort(np.abs(kernel), axis=None)[119]] = 0
    model.set_weights([kernel, *before[1:]])
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["mae"]
    assert report.values["first"][1] == pytest.approx(expected, rel=1e-5)
    assert "first" in str(report)


def test_settings_that_each_layer_bears():
    report = kprune.oneshot.SensitivityReport(
        "m", "accuracy", "max", 0.9, [0.9, 0.5, 0.7], "Unstructured()",
        {
            "a": [0.7, 0.9, 0.895], "b": [0.9, 0.8, 0.9], "c": [0.9, 0.91, 0.9],
            "d": [0.9, None, 0.9],
        },
    )  # fmt: skip
    assert report.layers(0.01) == {"a": 0.7, "b": None, "c": 0.9, "d": None}
    model = _model()
    scan = kprune.sensitivity_scan(model, _data(), sparsities=[0.5])
    x, y = _data()
    pruning = kprune.Pruning(layers=scan.layers(max_drop=100.0))
    model.fit(x, y, epochs=10, verbose=0, callbacks=[pruning])
    assert (model.layers[0].get_weights()[0] == 0).mean() == 0.5


def test_a_metric_of_ones_own():
    model = _model(compiled=False)
    report = kprune.sensitivity_scan(
        model, None, lambda model, _: float(np.sum(model.get_weights()[0] != 0)),
        [0.5], layers="first", pattern=kprune.Block((2, 1)), mode="max",
    )  # fmt: skip
    assert (report.baseline, report.values) == (160.0, {"first": [80.0]})


def test_a_scan_goes_on_where_it_was(tmp_path, monkeypatch):
    out, model, data = tmp_path / "scan.json", _model(), _data()
    own, seen = sensitivity._Scan.of_layer, []

    def of_layer(scan, name):
        seen.append(name)
        if seen == ["first", "last"]:
            raise KeyboardInterrupt
        return own(scan, name)

    monkeypatch.setattr(sensitivity._Scan, "of_layer", of_layer)
    with pytest.raises(KeyboardInterrupt):
        kprune.sensitivity_scan(model, data, sparsities=[0.5], out=out)
    assert list(json.loads(out.read_text())["layers"]) == ["first"]
    report = kprune.sensitivity_scan(model, data, sparsities=[0.5], out=out)
    assert seen == ["first", "last", "last"]
    monkeypatch.undo()
    assert report.to_dict() == kprune.sensitivity_scan(model, data, sparsities=[0.5]).to_dict()
    for other in ({"sparsities": [0.6]}, {"metric": "loss"}, {"data": (data[0], data[1] + 1)}):
        arguments = {"data": data, "sparsities": [0.5], **other}
        with pytest.raises(ValueError, match="of a scan of another"):
            kprune.sensitivity_scan(model, out=out, **arguments)
    out.write_text("[]")
    with pytest.raises(ValueError, match="no file of a scan"):
        kprune.sensitivity_scan(model, data, sparsities=[0.5], out=out)


def test_an_evaluation_that_fails_leaves_the_model_as_it_was():
    model, calls = _model(), []
    before = model.get_weights()

    def metric(model, data):
        calls.append(1)
        return 1.0 if len(calls) < 3 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        kprune.sensitivity_scan(model, None, metric)
    assert _same(model, before)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend shows it")
def test_in_several_processes():
    model, data = _model(), _data()
    alone = kprune.sensitivity_scan(model, data, sparsities=[0.5, 0.9])
    report = kprune.sensitivity_scan(
        model, data, sparsities=[0.5, 0.9], parallel=joblib.Parallel(n_jobs=2)
    )
    for name, values in alone.values.items():
        np.testing.assert_allclose(report.values[name], values, 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "accuracy"}, "no metric 'accuracy'; it has loss, mae"),
        ({"data": (np.zeros((9, 10), "float32"), np.full((9, 1), np.nan))}, "dense model is nan"),
        ({"data": (np.zeros((9, 3), "float32"), np.zeros((9, 1)))}, "could not be evaluated"),
        ({"layers": "none"}, "matches nothing"),
        ({"sparsities": [1.0]}, "1.0"),
        ({"mode": "best"}, '"max" or "min"'),
        ({"pattern": kprune.Channels()}, "whole channels"),
        ({"model": _model(compiled=False)}, "not compiled"),
    ],
)
def test_bad_input(change, message):
    arguments = {"model": _model(), "data": _data(), **change}
    before = arguments["model"].get_weights()
    with pytest.raises(ValueError, match=message):
        kprune.sensitivity_scan(**arguments)
    assert _same(arguments["model"], before)


def test_a_picture(tmp_path):
    report = kprune.sensitivity_scan(_model(), _data(), sparsities=[0.5])
    report.plot(tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 10_000
