"""`scripts/benchmark_android.py` with an adb whose phone is a folder; no phone was at hand.

The recorded lines are in the format of tensorflow/lite/tools/benchmark: benchmark_model.cc, and the
profiler's in its README.md.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from kprune.cli import app
from kprune.export import export_tflite
from tests.helpers.scripts import SCRIPTS
from tests.helpers.zoo import ZOO

HELPERS = Path(__file__).parents[1] / "helpers"
ARM64, ARM = 183, 40

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="one backend shows that it runs"
    ),
    pytest.mark.skipif(os.name != "posix", reason="the phone's commands run in this machine's sh"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("models")
    for name in ("mlp", "cnn"):
        export_tflite(ZOO[name](), folder / f"{name}.tflite")
    (folder / "bad one.tflite").write_bytes(b"damaged")
    for number, name in ((ARM64, "arm64"), (ARM, "arm")):
        header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, number)
        (folder / name).write_bytes(header + bytes(100))
    return folder


@pytest.fixture
def phone(models, tmp_path):
    """Function that runs the script beside a phone with these settings."""
    (tmp_path / "root").mkdir()

    def run(*arguments, binary="arm64", **settings):
        properties = {
            "ro.product.manufacturer": "Google",
            "ro.product.model": "Pixel 8",
            "ro.soc.model": "Tensor G3",
            "ro.product.cpu.abi": "arm64-v8a",
            "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
            "ro.build.version.release": "16",
        }
        settings = {
            "devices": {"0a388e93": "device"},
            "root": str(tmp_path / "root"),
            "program": str(HELPERS / "benchmark_model.py"),
            **settings,
            "properties": properties | settings.get("properties", {}),
        }
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        adb = tmp_path / "adb"
        script = f'"{sys.executable}" "{HELPERS / "fake_adb.py"}" "{tmp_path / "settings.json"}"'
        adb.write_text(f'#!/bin/sh\nexec {script} "$@"\n')
        adb.chmod(0o755)
        command = [sys.executable, str(SCRIPTS / "benchmark_android.py"), "--adb", str(adb)]
        command += ["--binary", str(models / binary), "--rounds", "2", "--runs", "5"]
        command += [str(argument) for argument in arguments]
        return subprocess.run(command, cwd=models, capture_output=True, text=True)

    return run


def test_files_are_timed_and_come_back_into_a_comparison(phone, models, tmp_path):
    out = tmp_path / "phone.json"
    done = phone("mlp.tflite", "cnn.tflite", "--threads", 2, "--taskset", "1", "--json", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Google Pixel 8 (Tensor G3) (arm64-v8a), 2 thread(s)" in done.stdout
    report = json.loads(out.read_text())
    assert [Path(row["path"]).name for row in report["rows"]] == ["mlp.tflite", "cnn.tflite"]
    assert all(0 < row["median"] < 1 and row["p10"] <= row["p90"] for row in report["rows"])
    assert report["rows"][0]["speedup"] == 1
    assert report["rows"][1]["bytes"] == (models / "cnn.tflite").stat().st_size
    assert report["machine"]["system"] == "Android 16"
    commands = (tmp_path / "root" / "commands.txt").read_text().splitlines()
    runs = [line for line in commands if "--graph" in line]
    assert len(runs) == 4
    assert sum("--graph=0.tflite" in line for line in runs) == 2
    for part in (
        "taskset 1 ./benchmark_model",
        "--num_threads=2",
        "--num_runs=5",
        "--warmup_runs=5",
    ):
        assert all(part in line for line in runs)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["commands.txt"]
    shown = CliRunner().invoke(
        app, ["benchmark", str(models / "mlp.tflite"), "--rounds", "1", "--compare", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    assert "there: Google Pixel 8 (Tensor G3) (arm64-v8a)" in " ".join(shown.output.split())


@pytest.mark.slow
def test_a_file_that_does_not_run_is_named_and_the_others_are_timed(phone, models, tmp_path):
    out = tmp_path / "phone.json"
    files = ["mlp.tflite", "bad one.tflite"]
    done = phone(*files, "--flag", "use_xnnpack=false", "--profile", tmp_path, "--json", out)
    assert done.returncode == 1
    assert done.stderr.startswith("bad one.tflite: it does not run: ")
    assert "Benchmarking failed" not in done.stderr
    good, bad = json.loads(out.read_text())["rows"]
    assert good["median"] > 0
    assert good["reason"] is None
    assert (bad["median"], bad["speedup"]) == (None, None)
    assert good["runtime"] == "benchmark_model use_xnnpack=false"
    commands = (tmp_path / "root" / "commands.txt").read_text()
    assert commands.count("--graph=1.tflite") == 2  # the first visit, and the profile
    assert "Timings (microseconds)" in (tmp_path / "mlp.tflite.profile.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"devices": {}}, "no phone is connected"),
        ({"devices": {"0a388e93": "unauthorized"}}, "allow USB debugging in the dialog"),
        ({"devices": {"0a388e93": "offline"}}, "adb says 'offline'"),
        ({"devices": {"a": "device", "b": "device"}}, "2 devices are connected: give --serial"),
        ({"space": 200}, "mlp.tflite cannot be copied to the phone: adb: error: failed to copy"),
        ({"space": 200}, "No space left on device"),
        ({"binary": "arm", "properties": {"ro.product.cpu.abilist": "arm64-v8a"}},
         "is for armeabi-v7a, and the phone runs ['arm64-v8a']: take android_aarch64_"),
        ({"binary": "mlp.tflite"}, "is no program"),
        ({"gone": True}, "the phone is gone: adb: device '0a388e93' not found"),
    ],
)  # fmt: skip
def test_what_can_go_wrong_is_one_line(phone, tmp_path, settings, says):
    done = phone("mlp.tflite", **settings)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "root" / "kprune").exists()


@pytest.mark.slow
def test_one_of_several_phones_is_chosen_by_its_serial_number(phone):
    devices = {"a": "unauthorized", "b": "device"}
    done = phone("mlp.tflite", "--serial", "b", "--rounds", 1, devices=devices)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no device 'c' is connected" in phone("mlp.tflite", "--serial", "c").stderr
    done = phone("mlp.tflite", "--adb", "no-such-adb")
    assert "install Android's platform-tools" in done.stderr


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark_android

    return benchmark_android


WARMUP = "INFO: count=9 first=871 curr=516 min=516 max=871 avg=581.4 std=114"
NEW = (
    "INFO: count=50 first=521 curr=497 min=490 max=6861 avg=637.4 std=607 p5=496 median=519 p95=686"
)


@pytest.mark.parametrize(
    ("line", "microseconds"),
    [
        (NEW, 519),
        ("count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929", 79732),
        ("count=459 first=2143 curr=2101 min=2056 max=2656 avg=2.1771e+03 std=124", 2177.1),
        ("INFO: count=50 curr=7(all same)", 7),
    ],
)
def test_both_forms_of_the_statistics_are_read(script, line, microseconds):
    profiler = "Timings (microseconds): count=50 first=1 curr=1 min=1 max=1 avg=1 std=0"
    text = "\n".join(["STARTING!", WARMUP, "", line, "", profiler, "Memory (bytes): count=0"])
    assert script.latency(text) == pytest.approx(microseconds * 1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it does not run: it printed nothing"),
        (WARMUP, "it does not run: INFO: count=9"),
        (f"{WARMUP}\nERROR: Node number 57 (BATCH_MATMUL) failed to prepare.\nERROR: Benchmarking "
         "failed.", r"it does not run: Node number 57 \(BATCH_MATMUL\) failed to prepare"),
        ("/system/bin/sh: ./benchmark_model: not executable: 64-bit ELF file", "does not start"),
        ("sh: ./benchmark_model: Permission denied", "does not start"),
        ('CANNOT LINK EXECUTABLE "./benchmark_model": library "libc++.so" not found', "not start"),
        (f"{WARMUP}\nINFO: count=0", "it tells no time"),
    ],
)  # fmt: skip
def test_a_run_without_timings_says_why(script, text, says):
    with pytest.raises(script.Failed, match=says):
        script.latency(text)
