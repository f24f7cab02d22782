"""What zeros are worth on an Arm Ethos-U: checked on files by Vela, foreseen for models."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.targets import TARGETS
from tests.helpers.ethos import TARGET, exported, needs_vela, samples, small


def named(report):
    return {layer.name.rstrip("_1"): layer for layer in report.layers}


def test_the_configurations_of_vela():
    found = [name for name in TARGETS if name.startswith("ethos-")]
    assert len(found) == 11
    if needs_vela.args[0] is False:
        from ethosu.vela.architecture_features import Accelerator

        assert found == Accelerator.member_list()
    assert not any(TARGETS[name].always for name in found)
    assert [name for name in found if TARGETS[name].pairs] == found[-5:]


@needs_vela
def test_a_file_layer_by_layer():
    report = kprune.check(exported(0.9)[0], TARGET)
    layer = named(report)
    assert layer["conv"].verdict == "sparse and only smaller"
    assert "arithmetic" in layer["conv"].reason
    assert layer["wide"].verdict == "sparse and faster"
    assert layer["wide"].sparsity == pytest.approx(0.9, abs=0.01)
    assert report.ok
    assert report.estimated_gain > 1.3
    assert any("not measured" in note for note in report.notes)
    assert any("as dense" in note for note in report.notes)


@needs_vela
def test_a_dense_file_is_told_what_would_help():
    report = kprune.check(exported(0.0)[0], TARGET)
    layer = named(report)
    assert {one.verdict for one in report.layers} == {"dense"}
    assert layer["wide"].advice == "zeros would make it smaller and faster"
    assert "remove channels" in layer["conv"].advice
    assert report.estimated_gain == 1.0


@needs_vela
def test_a_float_file_would_not_run_there(tmp_path):
    kprune.export_tflite(small(), tmp_path / "m.tflite")
    report = kprune.check(tmp_path / "m.tflite", TARGET)
    assert not report.ok
    assert {one.verdict for one in report.layers} == {"will not run"}
    assert "Float32" in report.layers[0].reason
    assert "int8" in report.layers[0].advice


@needs_vela
def test_a_compiled_file_cannot_be_checked():
    path = exported(0.9, TARGET)[1].beside[0]
    with pytest.raises(ValueError, match="is compiled already"):
        kprune.check(path, TARGET)


def test_a_model_is_foreseen():
    report = kprune.check(small(), TARGET)
    layer = {one.name: one for one in report.layers}
    assert layer["wide"].advice == "zeros would make it smaller and faster"
    assert "arithmetic" in layer["conv"].reason
    assert report.estimated_gain is None
    assert "x as fast" not in str(report)
    assert "quantize='int8'" in report.notes[-1]


def test_zeros_everywhere():
    found = kprune.for_target(small(), TARGET, 0.9)
    assert set(found) == {"conv", "wide", "head"}
    assert {str(one["pattern"]) for one in found.values()} == {"Unstructured()"}
    assert "and time" in found.reasons["wide"]
    assert "take channels" in found.reasons["conv"]


def test_channels_where_zeros_are_no_faster():
    built = keras.Sequential(
        [
            keras.Input((32, 32, 4)),
            layers.Conv2D(32, 3, name="first"),
            layers.Conv2D(32, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(512, name="wide"),
        ]
    )
    found = kprune.for_target(built, TARGET, 0.9, channels=0.5)
    assert found.channels == ["first"]
    assert str(found["wide"]["pattern"]) == "Unstructured()"
    assert "second" not in found


def test_few_depthwise_weights_stay():
    built = keras.Sequential(
        [
            keras.Input((12, 12, 4)),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(64, 1, name="pointwise"),
            layers.Flatten(),
            layers.Dense(8, name="head"),
        ]
    )
    found = kprune.for_target(built, TARGET)
    assert set(found) == {"pointwise", "head"}
    assert "too few" in found.reasons["depthwise"]


@pytest.mark.parametrize(
    ("sparsity", "group", "reached"), [(0.5, 4, 0.5), (0.85, 12, 1 - 2 / 12), (0.9, 20, 0.9)]
)
def test_pairs_on_u85(sparsity, group, reached):
    built = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="a")])
    (setting,) = kprune.for_target(built, "ethos-u85-256", sparsity).values()
    assert (setting["pattern"].n, setting["pattern"].m) == (2, group)
    assert setting["sparsity"] == pytest.approx(reached)


def test_nothing_to_prepare():
    built = small()
    assert kprune.prepare(built, TARGET)[0] is built


def trained(target, sparsity):
    built = small()
    built.compile("sgd", "mse")
    x, y = samples(), np.zeros((32, 32), "float32")
    built.fit(x, y, 8, 4, verbose=0, callbacks=[kprune.Pruning(sparsity, target=target)])
    return kprune.strip_pruning(built)


def test_pruning_takes_the_target():
    built = trained(TARGET, 0.9)
    for name in ("conv", "wide", "head"):
        kernel = np.asarray(built.get_layer(name).kernel)
        assert 1 - np.count_nonzero(kernel) / kernel.size == pytest.approx(0.9, abs=0.01)


@pytest.mark.slow
def test_pairs_halve_the_multiply_adds(tmp_path):
    from tests.helpers.ethos import export

    macs = []
    for sparsity in (0.85, 0.0):
        built = trained("ethos-u85-256", sparsity) if sparsity else small()
        report = export(built, tmp_path / "m.tflite", target="ethos-u85-256")
        macs.append({layer.name.rstrip("_1"): layer.macs for layer in report.estimate.layers})
    assert 2 * macs[0]["wide"] == macs[1]["wide"]
    assert 2 * macs[0]["head"] == macs[1]["head"]
