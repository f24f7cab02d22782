"""Operators in the real runtimes, in another process."""

import json
import threading
from types import SimpleNamespace

import pytest

from kprune.formats.onnx.single_operator import onnx_empty
from kprune.formats.single_operator import SingleOperator
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.search.latency.timers import LocalTimer, check_target, timer_for
from kprune.search.latency.times import Times

EMPTY = {"tflite": tflite_empty, "onnx": onnx_empty}


def operator(blob):
    def file(shapes):
        if blob is None:
            raise ValueError("it cannot be made")
        return blob

    return SingleOperator("X", "x", ((1,),), file, lambda shapes: 1.0)


@pytest.mark.parametrize("format", EMPTY)
def test_files_that_do_not_run_have_no_time_and_others_do(format):
    timer, done = LocalTimer(format), []
    blobs = [EMPTY[format](20), b"damaged", None, EMPTY[format](1)]
    times = timer.operators([(operator(blob), ((1,),)) for blob in blobs], lambda: done.append(1))
    assert [time is None for time in times] == [False, True, True, False]
    assert all(time is None or time >= 0 for time in times)
    assert len(done) == 3
    assert timer.place[:2] == [timer.runtime, timer.version]


def test_a_file_that_takes_the_process_down_is_found(monkeypatch, tmp_path):
    from kprune.search.latency import timers

    program = tmp_path / "worker.py"
    program.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    files = json.loads(line)['files']\n"
        "    if any(open(f, 'rb').read() == b'crash' for f in files): os._exit(3)\n"
        "    print(json.dumps([[float(len(open(f, 'rb').read()))] for f in files]), flush=True)\n"
    )
    monkeypatch.setattr(timers.worker, "__file__", str(program))
    timer = LocalTimer("tflite")
    timer._overhead = 0.0
    blobs = [b"1", b"22", b"crash", b"4444", b"crash"]
    times = timer.operators([(operator(blob), ((1,),)) for blob in blobs])
    assert times == [1.0, 2.0, None, 4.0, None]


@pytest.mark.parametrize("format", EMPTY)
def test_whole_files(format, tmp_path, monkeypatch):
    from kprune.search.latency import timers

    monkeypatch.setattr(timers, "_WHOLE_ROUNDS", 4)
    paths = [tmp_path / f"{n}.{format}" for n in (1, 2)]
    for path in paths:
        path.write_bytes(EMPTY[format]())
    timer = LocalTimer(format)
    assert timer.whole(*paths) > 0
    assert timer.seconds(paths[0]) > 0
    assert timer.base() > 0


def test_a_target_of_another_processor_says_where_its_times_come_from(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(ValueError, match=r"cannot be measured on this machine.*write_operators"):
        check_target("litert-arm64")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ValueError, match="cannot be measured on this machine"):
        check_target("litert-x86")
    assert check_target("litert-arm64").name == "litert-arm64"


def test_a_browser_that_is_missing_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("KPRUNE_WEB_CACHE", str(tmp_path))
    monkeypatch.setenv("KPRUNE_BROWSER", "")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ImportError, match="Chromium is not installed"):
        check_target("litert-wasm")


@pytest.mark.parametrize("threads", [0, True, 1.5])
def test_threads_are_numbers(threads):
    with pytest.raises(ValueError, match="`threads` must be a positive int"):
        timer_for(check_target("onnxruntime"), threads)


def test_a_process_that_does_not_start_says_why(monkeypatch, tmp_path):
    from kprune.search.latency import timers

    (tmp_path / "worker.py").write_text("import sys; sys.exit('no library for that')")
    monkeypatch.setattr(timers.worker, "__file__", str(tmp_path / "worker.py"))
    with pytest.raises(RuntimeError, match=r"did not start.*no library for that"):
        LocalTimer("tflite").operators([(operator(tflite_empty()), ((1,),))])


def test_ctrl_c_leaves_no_thread_that_waits(tmp_path):
    from kprune.search.latency.timers import _Child

    class Pipe:
        def write(self, text):
            pass

        flush = terminate = lambda self: None

        def readline(self):
            raise KeyboardInterrupt

    process = _Child(LocalTimer("tflite"), tmp_path)
    process._process = SimpleNamespace(stdin=Pipe(), stdout=Pipe(), terminate=Pipe().terminate)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        process._answer({})
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)
    assert threading.active_count() <= before


def test_only_times_and_what_has_no_file_are_kept(latency_cache):
    class Killed:
        place = ("killed",)

        def operators(self, requests, advance):
            return [None, None, 2.0]

    made = [operator(b"1"), operator(None), operator(b"22")]
    requests = [(one, ((i,),)) for i, one in enumerate(made)]
    Times.kept(Killed()).measure(requests)
    (path,) = latency_cache.iterdir()
    keys = [one.key(shapes) for one, shapes in requests]
    assert json.loads(path.read_text())["seconds"] == {keys[1]: None, keys[2]: 2.0}
