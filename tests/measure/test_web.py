"""Real files in a real browser; skipped where there is none, unless KPRUNE_REQUIRE_WEB is set."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from kprune._system.quiet import quiet
from kprune.export import export_tflite
from kprune.measure import web
from kprune.runtimes.litertjs import browser
from tests.helpers.browser import require_browser
from tests.helpers.mobilenet import mobilenet
from tests.helpers.zoo import ZOO

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the files are the same on every backend"
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_web.py"


@pytest.fixture(scope="session", autouse=True)
def _browser():
    require_browser()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One dense file, one on XNNPACK's sparse path, and one that it accepts and cannot run."""
    folder = tmp_path_factory.mktemp("web")
    for name, sparsity in (("dense", 0.0), ("sparse", 0.9)):
        keras.utils.set_random_seed(0)
        export_tflite(mobilenet(sparsity=sparsity), folder / f"{name}.tflite", sparse=sparsity > 0)
    keras.utils.set_random_seed(0)
    trap = mobilenet(sparsity=0.9, head="conv")
    (folder / "trap.tflite").write_bytes(sparse_as_it_is(trap))
    return folder


def sparse_as_it_is(model):
    """Convert without what kprune does against such traps."""
    import tensorflow as tf

    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32")
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.export(folder, input_signature=[spec])
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        return converter.convert()


@pytest.fixture(scope="module")
def report(folder):
    files = [folder / f"{name}.tflite" for name in ("dense", "sparse", "trap")]
    return web.benchmark_web(files, rounds=5, warmup=1)


def test_dense_and_sparse_files_run_and_agree_with_litert(report):
    dense, sparse, _ = report
    for row in (dense, sparse):
        assert row.reason is None
        assert row.difference <= 1e-3
        assert 0 < row.p10 <= row.median <= row.p90
        assert row.speedup > 0
    assert dense.speedup == 1.0
    assert sparse.bytes < dense.bytes / 2


def test_a_file_that_litert_js_answers_with_zeros_does_not_run(report):
    assert [Path(row.path).name for row in report.failures] == ["trap.tflite"]
    (trap,) = report.failures
    assert "does not run in LiteRT.js: XNNPack delegate failed to reshape runtime" in trap.reason
    assert (trap.median, trap.speedup, trap.difference) == (None, None, None)
    assert trap.bytes > 0


def test_integer_inputs_run_as_uint8_and_not_as_int8(tmp_path):
    keras.utils.set_random_seed(0)
    model, files = ZOO["cnn"](), []
    data = np.random.default_rng(0).normal(size=(40, 16, 16, 3))
    for io in ("uint8", "int8"):
        files.append(tmp_path / f"{io}.tflite")
        export_tflite(model, files[-1], "int8", data, io=io)
    done, refused = web.benchmark_web(files, rounds=0)
    assert done.reason is None
    assert done.difference < 1e-3
    assert "takes no input of dtype int8" in refused.reason


def test_report_prints_whole_and_is_plain_data(report):
    text = str(report)
    assert all(word in text for word in ("sparse.tflite", "agree", "does not run", "reshape"))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [row["reason"] for row in data["rows"]] == [row.reason for row in report]
    assert data["machine"]["runtimes"] == {"LiteRT.js": browser.find_package()[1]}


def test_outputs_are_compared(folder, monkeypatch):
    reference = web._reference

    def shifted(*arguments):
        feeds, outputs = reference(*arguments)
        return feeds, {name: value + 0.01 * np.abs(value).max() for name, value in outputs.items()}

    monkeypatch.setattr(web, "_reference", shifted)
    file = folder / "sparse.tflite"
    (row,) = web.benchmark_web(file, rounds=0)
    assert "0.0099 (relative) from LiteRT's" in row.reason
    assert row.difference == pytest.approx(0.01, rel=0.02)
    assert web.benchmark_web(file, rounds=0, tolerance=0.02).failures == []


def test_several_inputs_and_ids(tmp_path):
    export_tflite(ZOO["dict_io"](), tmp_path / "m.tflite")
    (row,) = web.benchmark_web(tmp_path / "m.tflite", rounds=0)
    assert row.reason is None


def test_a_free_batch_is_refused_with_advice(tmp_path):
    export_tflite(ZOO["mlp"](), tmp_path / "free.tflite", batch_size=None)
    (row,) = web.benchmark_web(tmp_path / "free.tflite", rounds=0)
    assert "has dynamic dimensions (-1," in row.reason
    assert "export it with a batch size" in row.reason


def page_with(tmp_path, monkeypatch, name, text):
    """Serve a copy of the page with one file replaced."""
    copy = tmp_path / "page"
    shutil.copytree(browser.PAGE, copy)
    (copy / name).write_text(text)
    monkeypatch.setattr(browser, "PAGE", copy)
    return copy


def test_a_page_that_hangs_is_given_up_and_the_other_file_runs(folder, tmp_path, monkeypatch):
    hang = (browser.PAGE / "run.js").read_text()
    hang = hang.replace(
        "model.set(feeds);", "if (bytes.length && job.files[i].hangs) for (;;);\n$&"
    )
    hang = hang.replace("$&", "model.set(feeds);")
    page_with(tmp_path, monkeypatch, "run.js", hang)
    to_dict = browser.Job.to_dict

    def told(job):
        data = to_dict(job)
        for file, path in zip(data["files"], job.paths):
            file["hangs"] = path.name == "sparse.tflite"
        return data

    monkeypatch.setattr(browser.Job, "to_dict", told)
    files = [folder / "dense.tflite", folder / "sparse.tflite"]
    dense, sparse = web.benchmark_web(files, rounds=2, warmup=0, timeout=30)
    assert "silent for 30 seconds" in sparse.reason
    assert dense.reason is None
    assert dense.median > 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds the renderer in /proc")
def test_a_page_that_crashes_is_noticed_at_once(folder):
    def kill_the_page(event):
        if event["stage"] != "run":
            return
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                leader = Path("/proc", str(os.getpgid(int(process.name))), "stat").read_text()
            except OSError:
                continue
            # The browser leads the group, and is the child of the process that keeps it.
            keeper = int(leader.rpartition(")")[2].split()[1])
            if b"--type=renderer" in command and keeper == started[-1].pid:
                os.kill(int(process.name), 9)

    started = []
    popen = subprocess.Popen

    class Recorded(popen):
        def __init__(self, command, **kwargs):
            super().__init__(command, **kwargs)
            started.append(self)

    feeds, _ = web._reference(folder / "dense.tflite", 0, 1, 60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Recorded)
        # So many rounds that it is alive when it is killed.
        job = browser.Job([folder / "dense.tflite"], [feeds], [[0]] * 200)
        (outcome,) = browser.run(job, timeout=100, on_event=kill_the_page)
    assert outcome.reason == "it crashed the page"
    assert all(process.poll() is not None for process in started)


def test_a_browser_that_does_not_start_is_one_error(folder, tmp_path):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho 'libnss3.so is missing' >&2; exit 127")
    broken.chmod(0o755)
    with pytest.raises(browser.BrowserError, match=r"ended \(exit status 127\).*libnss3"):
        web.benchmark_web(folder / "dense.tflite", browser=broken)


DROP = """
const names = ["dense.tflite", "sparse.tflite"];
const files = await Promise.all(names.map(async (name, i) =>
  new File([await (await fetch(`file/${i}`)).arrayBuffer()], name)));
const dropped = new DataTransfer();
for (const file of files) dropped.items.add(file);
const zone = document.querySelector(".zone");
zone.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true}));
const results = document.querySelector("#results");
while (!results.children.length) await new Promise((resume) => setTimeout(resume, 50));
const tell = (event) => fetch("event", {method: "POST", body: JSON.stringify(event)});
await tell({stage: "failed", file: 0, reason: results.innerText});
await tell({stage: "done"});
"""


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        ("dense", ["dense.tflite", " ms", "is the second file", "The outputs agree"]),
        ("sparse", ["sparse.tflite", " ms", "is the second file", "The outputs differ by"]),
        ("trap", ["sparse.tflite does not run here: XNNPack delegate failed to reshape runtime"]),
    ],
)
def test_the_page_for_people(folder, tmp_path, monkeypatch, second, shown):
    index = (browser.PAGE / "index.html").read_text()
    index = index.replace("</body>", f'<script type="module">{DROP}</script></body>')
    page_with(tmp_path, monkeypatch, "run.html", index)
    job = browser.Job([folder / "dense.tflite", folder / f"{second}.tflite"], [{}, {}])
    text = browser.run(job)[0].reason
    assert all(part in text for part in shown), text


def test_only_the_page_and_the_package_are_served(tmp_path):
    from threading import Thread
    from urllib.error import HTTPError
    from urllib.request import urlopen

    package, _ = browser.find_package()
    with browser.server(package) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        with urlopen(base) as answer:
            assert b"side by side" in answer.read()
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with urlopen(base + "litert/core/package.json") as answer:
            assert b"@litertjs/core" in answer.read()
        for path in ("../web.py", "%2e%2e/web.py", "litert/../../x", "litert/..%2f..%2fx", "job"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(base + path)
        server.shutdown()


def test_bad_arguments(folder, tmp_path):
    with pytest.raises(ValueError, match="at least one file"):
        web.benchmark_web([])
    with pytest.raises(ValueError, match=r"\.tflite files.*m\.onnx"):
        web.benchmark_web("m.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        web.benchmark_web(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match="`rounds` must be"):
        web.benchmark_web(folder / "dense.tflite", rounds=-1)
    bad = tmp_path / "bad.tflite"
    bad.write_bytes((folder / "dense.tflite").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"bad\.tflite could not be run"):
        web.benchmark_web([folder / "dense.tflite", bad])


def test_what_is_missing_is_named_with_its_command(tmp_path, monkeypatch):
    with pytest.raises(browser.BrowserMissing, match="apt-get install chromium"):
        browser.find_browser("no-such-browser")
    with pytest.raises(browser.BrowserMissing, match=r"npm install --prefix .* @litertjs/core@"):
        browser.find_package(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(browser.BrowserMissing, match="apt-get install npm"):
        browser.install(tmp_path)


def test_the_script_as_a_command(folder, tmp_path):
    files = [folder / "dense.tflite", folder / "sparse.tflite"]
    options = ["--rounds", "2", "--warmup", "0", "--json", tmp_path / "out.json"]
    command = [sys.executable, *map(str, [SCRIPT, *files, *options])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text())["rows"][1]["median"] > 0


def test_the_script_fails_on_a_file_that_does_not_run(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    app = typer.Typer()
    app.command()(importlib.import_module("benchmark_web").main)
    files = [str(folder / "dense.tflite"), str(folder / "trap.tflite")]
    result = CliRunner().invoke(app, [*files, "--rounds", "0"])
    assert result.exit_code == 1
    assert "failed to reshape runtime" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, [files[0], "--cache", str(folder)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: LiteRT.js is not in")
