"""Vela in a process of its own: what it makes, what it estimates, and how it fails."""

import sys
import types

import pytest

from kprune._system.errors import ExportError
from kprune.formats.tflite import filled
from kprune.formats.tflite.compiled import is_compiled
from kprune.runtimes import vela
from kprune.runtimes.vela_tables import (
    ACTIVATIONS,
    ARITHMETIC,
    WEIGHTS,
    VelaEstimate,
    estimate_beside,
    to_json,
)
from tests.helpers.ethos import TARGET, exported, needs_vela

pytestmark = needs_vela


def compiled(sparsity, target=TARGET, **options):
    return vela.compile_tflite(exported(sparsity)[0].read_bytes(), target, **options)


def test_what_bounds_each_layer():
    made = compiled(0.0)
    assert is_compiled(made.blob)
    assert not is_compiled(exported(0.0)[0].read_bytes())
    found = made.estimate
    by_name = {layer.name.rstrip("_1"): layer for layer in found.layers}
    assert by_name["conv"].bound == ARITHMETIC
    assert by_name["conv"].macs == 12 * 12 * 9 * 4 * 16
    assert by_name["wide"].bound == WEIGHTS
    assert by_name["wide"].cycles > 512 * 16 / 2  # a byte a cycle, compressed a little
    assert found.cycles == sum(layer.cycles for layer in found.layers)
    assert found.seconds * found.clock == pytest.approx(found.cycles)
    assert found.inferences_per_second == pytest.approx(1 / found.seconds)
    assert found.flash_bytes == len(made.blob) > found.weight_bytes
    assert sum(map(found.bound_by, (WEIGHTS, ACTIVATIONS, ARITHMETIC))) == pytest.approx(1)
    left = [layer for layer in found.layers if not layer.on_npu]
    assert [layer.operator for layer in left] == ["Quantize", "Dequantize"]
    assert "Float32" in left[0].reason
    assert (found.npu_operators, found.cpu_operators) == (len(found.layers) - 2, 2)


def test_zeros_take_less_and_filled_ones_as_much_as_the_dense_file():
    dense, pruned = (compiled(sparsity).estimate for sparsity in (0.0, 0.9))
    assert pruned.weight_bytes < 0.3 * dense.weight_bytes
    assert pruned.cycles < dense.cycles
    blob = exported(0.9)[0].read_bytes()
    again = filled.transform(blob)
    assert again != blob
    assert filled.transform(blob) == again
    estimate = vela.compile_tflite(again, TARGET).estimate
    assert estimate.cycles == pytest.approx(dense.cycles, rel=0.1)
    assert estimate.weight_bytes == pytest.approx(dense.weight_bytes, rel=0.1)
    dense_blob = exported(0.0)[0].read_bytes()
    assert filled.transform(dense_blob) is dense_blob


def test_less_sram_is_kept_to():
    most = compiled(0.0).estimate.sram_bytes
    assert compiled(0.0, sram=most // 2).estimate.sram_bytes < most


def test_an_estimate_as_json(tmp_path):
    made = compiled(0.0)
    path = tmp_path / "m_vela.tflite"
    path.write_bytes(made.blob)
    with pytest.raises(ValueError, match=r"m_vela\.json.* is not there.*int8 files"):
        estimate_beside(path)
    path.with_suffix(".json").write_bytes(to_json(made.estimate, made.blob))
    assert estimate_beside(path) == made.estimate
    assert VelaEstimate.from_dict(made.estimate.to_dict()) == made.estimate
    path.write_bytes(made.blob + b"\0")
    with pytest.raises(ValueError, match="that of another file"):
        estimate_beside(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        estimate_beside(path)


def test_a_crash_is_one_line():
    with pytest.raises(ExportError, match=rf"^Vela .* could not compile .*{TARGET}: .*\.$"):
        vela.compile_tflite(exported(0.0)[0].read_bytes()[:3000], TARGET)


def test_a_compiler_that_hangs_is_ended():
    with pytest.raises(ExportError, match=r"within 0\.01 seconds"):
        compiled(0.0, timeout=0.01)


def fake_vela(tmp_path, monkeypatch, script):
    """Put a package `ethosu.vela` first that runs `script` instead of Vela."""
    package = tmp_path / "ethosu" / "vela"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "__main__.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_the_layer_that_takes_vela_down_is_named(tmp_path, monkeypatch):
    script = (
        "import os, sys\n"
        "if 'CONV_2D' not in sys.argv: print('Assertion failed'), sys.stdout.flush(), os.abort()\n"
    )
    fake_vela(tmp_path, monkeypatch, script)
    with pytest.raises(ExportError, match=r"Assertion failed\. It does without CONV_2D \(conv"):
        compiled(0.0)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ethosu", types.ModuleType("ethosu"))
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "kprune\[ethos\]"'):
        vela.require_vela()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ethos-u55-32", "ethos-u65-512", "ethos-u85-2048"])
def test_other_configurations(target):
    found = compiled(0.9, target).estimate
    assert found.target == target
    assert found.npu_operators > found.cpu_operators
    assert found.cycles > 0
