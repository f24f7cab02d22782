"""The compiled file beside the verified one."""

import json

import keras
import pytest
from keras import layers

import kprune
from kprune.export import ExportError
from kprune.formats.tflite.compiled import is_compiled
from tests.helpers.ethos import TARGET, export, exported, needs_vela, samples, small

pytestmark = needs_vela


def test_both_files_and_the_estimate():
    path, report = exported(0.9, TARGET)
    beside = path.with_name(f"{path.stem}_vela.tflite")
    assert report.beside == [str(beside), str(beside.with_suffix(".json"))]
    assert not is_compiled(path.read_bytes())
    assert is_compiled(beside.read_bytes())
    estimate = report.estimate
    assert estimate.flash_bytes == beside.stat().st_size
    assert json.loads(beside.with_suffix(".json").read_text())["cycles"] == estimate.cycles
    assert report.to_dict()["estimate"]["cycles"] == estimate.cycles
    json.dumps(report.to_dict())
    printed = " ".join(str(report).split())
    assert "not measured" in printed
    assert f"{estimate.cycles:,} cycles" in printed
    (note,) = [note for note in report.notes if note.startswith("left to the processor")]
    assert "Quantize 'tfl.quantize'" in note
    (outlook,) = report.outlooks
    assert outlook.target == TARGET
    assert outlook.is_faster
    assert "with the zeros filled" in outlook.because
    assert not [note for note in report.notes if "stored dense" in note]


def test_too_little_sram_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ExportError, match=r"needs [\d,]+ bytes of SRAM.*sram=100 was given"):
        export(small(), tmp_path / "m.tflite", target=TARGET, sram=100)
    assert list(tmp_path.iterdir()) == []


def test_what_would_run_on_the_processor_alone_is_refused(tmp_path):
    built = keras.Sequential([keras.Input((12, 12, 4)), layers.Lambda(keras.ops.sin)])
    with pytest.raises(ExportError, match=f"Nothing of the model would run on {TARGET}.*Sin"):
        export(built, tmp_path / "m.tflite", target=TARGET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": TARGET, "sram": 0}, "`sram` must be a positive number"),
        ({"sram": 1000}, "give it with a target such as"),
        ({"target": TARGET, "quantize": None}, r"\('int8', 'int16x8'\) only"),
        ({"target": TARGET, "batch_size": None}, "fixed batch size"),
        ({"target": "ethos-u99-1"}, r"ethos-u65-256\|512"),
    ],
)
def test_refusals(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(small(), tmp_path / "m.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_without_vela_nothing_is_begun(tmp_path, monkeypatch):
    from kprune.runtimes import vela

    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"kprune\[ethos\]"):
        kprune.export_tflite(
            small(),
            tmp_path / "m.tflite",
            quantize="int8",
            representative_data=samples(),
            target=TARGET,
        )
