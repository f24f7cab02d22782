"""`benchmark` of files for an Arm Ethos-U: Vela's estimates, said to be no measurements."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kprune
from kprune.cli import app
from tests.helpers.ethos import TARGET, exported, needs_vela

pytestmark = needs_vela


def compiled(sparsity):
    return Path(exported(sparsity, TARGET)[1].beside[0])


def test_int8_files_are_compiled_and_compared():
    files = [exported(sparsity)[0] for sparsity in (0.0, 0.9)]
    report = kprune.benchmark(files, target=TARGET)
    dense, pruned = report
    assert pruned.speedup == pytest.approx(dense.median / pruned.median)
    assert pruned.speedup > 1.3
    assert pruned.estimate.weight_bytes < 0.3 * dense.estimate.weight_bytes
    assert "estimated" in dense.runtime
    text = str(report)
    assert text.startswith("Estimated by Vela")
    assert "not measured" in text
    assert f"{dense.estimate.cycles:,}" in text


def test_compiled_files_bring_their_estimates():
    report = kprune.benchmark([compiled(0.0), compiled(0.9)])
    again = kprune.benchmark([exported(0.0)[0], exported(0.9)[0]], target=TARGET)
    for row, other in zip(report, again):
        # TensorFlow numbers the names of one model's layers when it is traced again.
        assert dataclasses.replace(row.estimate, layers=[]) == dataclasses.replace(
            other.estimate, layers=[]
        )
        cycles = [[layer.cycles for layer in one.estimate.layers] for one in (row, other)]
        assert cycles[0] == cycles[1]
    json.dumps(report.to_dict())


@pytest.mark.parametrize(
    ("files", "target", "message"),
    [
        (lambda: [exported(0.0)[0], compiled(0.9)], None, "was not compiled for an Ethos-U"),
        (lambda: [compiled(0.9)], "ethos-u55-256", f"was compiled for {TARGET}, not for"),
        (lambda: [exported(0.0)[0]], "litert-x86", "measured in the runtime of this machine"),
        (lambda: [exported(0.0)[0]], "pi", "must be one of"),
    ],
)
def test_refusals(files, target, message):
    with pytest.raises(ValueError, match=message):
        kprune.benchmark(files(), target=target)


def test_a_compiled_file_alone_is_told_of(tmp_path):
    alone = tmp_path / "m_vela.tflite"
    alone.write_bytes(compiled(0.9).read_bytes())
    with pytest.raises(ValueError, match=r"carries no estimate of its own.*m_vela\.json"):
        kprune.benchmark([alone])


def test_a_float_file_has_nothing_to_estimate(tmp_path):
    from tests.helpers.ethos import small

    kprune.export_tflite(small(), tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=rf"Nothing of .* would run on {TARGET}.*int8"):
        kprune.benchmark([tmp_path / "m.tflite"], target=TARGET)


def test_the_command(tmp_path):
    files = [str(exported(sparsity)[0]) for sparsity in (0.0, 0.9)]
    out = tmp_path / "out.json"
    result = CliRunner().invoke(
        app, ["benchmark", *files, "--target", TARGET, "--json", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "not measured" in result.stdout
    assert json.loads(out.read_text())["rows"][1]["estimate"]["target"] == TARGET
    result = CliRunner().invoke(app, ["check", files[1], "--target", TARGET])
    assert result.exit_code == 0
    assert "sparse and faster" in " ".join(result.stdout.split())
