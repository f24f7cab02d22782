import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.measure import sparsity
from tests.helpers.zoo import ZOO


def zero_some(variable, zeros, seed=0):
    value = np.ones(np.prod(variable.shape))
    value[np.random.default_rng(seed).permutation(value.size)[:zeros]] = 0
    variable.assign(value.reshape(variable.shape))


def test_zeros_are_counted_exactly():
    model = ZOO["mlp"]()
    zero_some(model.layers[0].kernel, 500)
    report = sparsity(model)
    by_name = {row.name: row for row in report}
    first = by_name[model.layers[0].kernel.path]
    assert (first.size, first.zeros, first.shape) == (640, 500, (20, 32))
    assert first.prunable
    assert first.sparsity == 500 / 640
    assert (first.layer, first.type) == (model.layers[0].name, "Dense")
    zeros, size = 500, 20 * 32 + 32 * 5
    assert report.sparsity == zeros / size
    # The biases are zero from the start; they count in the model's sparsity only.
    assert report.model_sparsity == (zeros + 37) / (size + 37)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_every_variable_is_listed_once_and_what_is_skipped_has_a_reason(name):
    model = ZOO[name]()
    report = sparsity(model)
    assert sorted(row.name for row in report) == sorted(v.path for v in model.weights)
    assert any(row.prunable for row in report)
    assert all(row.prunable or row.reason for row in report)
    assert not any(row.prunable for row in report if row.name.endswith(("bias", "gamma", "beta")))
    text = str(report)
    assert all(row.name in text for row in report)
    assert json.loads(json.dumps(report.to_dict()))["sparsity"] == report.sparsity


def test_low_precision_zeros_are_counted():
    keras.config.set_dtype_policy("bfloat16")
    model = ZOO["mlp"]()
    zero_some(model.layers[1].kernel, 60)
    assert [row.zeros for row in sparsity(model)][2] == 60


def test_a_model_being_pruned_shows_what_it_is_pruned_to():
    model = ZOO["mlp"]()
    model.compile("sgd", "mse")
    callback = kprune.Pruning(0.75, layers={model.layers[0].name: 0.5, model.layers[1].name: None})
    model.fit(np.ones((8, 20)), np.ones((8, 5)), epochs=4, verbose=0, callbacks=[callback])
    report = sparsity(model)
    assert report.pruning
    assert [row.target for row in report] == [0.5, None, None, None]
    assert report.rows[0].sparsity == 0.5
    assert "yes, to 50.00%" in str(report)
    assert "yes, left dense" in str(report)
    assert not sparsity(ZOO["mlp"]()).pruning
    callback = kprune.Pruning(0.75, layers=model.layers[1].name)
    model.fit(np.ones((8, 20)), np.ones((8, 5)), epochs=4, verbose=0, callbacks=[callback])
    report = sparsity(model)
    assert [(row.target, row.held) for row in report][::2] == [(None, True), (0.75, False)]
    assert "yes, zeros are held" in str(report)


def test_a_file_is_read_like_its_model(tmp_path):
    model = ZOO["cnn"]()
    zero_some(model.layers[-1].kernel, 100)
    model.save(tmp_path / "model.keras")
    read, kept = sparsity(str(tmp_path / "model.keras")), sparsity(model)
    # Keras may name variables anew when it loads them.
    assert [(row.layer, row.shape, row.zeros, row.reason) for row in read] == [
        (row.layer, row.shape, row.zeros, row.reason) for row in kept
    ]


def test_a_model_without_prunable_weights_has_no_sparsity():
    report = sparsity(keras.Sequential([keras.Input((3,)), layers.BatchNormalization()]))
    assert report.sparsity == 0.0
    assert report.model_sparsity == 0.5


def test_bad_models(tmp_path):
    with pytest.raises(ValueError, match="not built"):
        sparsity(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="Received: None"):
        sparsity(None)
    (tmp_path / "noise.keras").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"noise\.keras is not a \.keras file"):
        sparsity(tmp_path / "noise.keras")


def test_wrapped_layers_show_their_target_and_hide_their_masks():
    model = ZOO["cnn"]()
    wrapped = kprune.prune_low_magnitude(model, kprune.ConstantSparsity(0.5, 0, frequency=1))
    report = sparsity(wrapped)
    assert report.pruning
    assert len(report.rows) == len(model.weights)
    assert {row.target for row in report if row.prunable} == {0.5}
    assert {row.target for row in report if not row.prunable} == {None}
