"""What times operators and whole files: the runtime on this machine, or in a browser on it."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from kprune._system.children import child, python_flags
from kprune._system.files import scratch
from kprune._system.packages import require_packages
from kprune.formats.onnx.single_operator import onnx_empty
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.measure.benchmark import benchmark, machine
from kprune.runtimes.litertjs import browser
from kprune.search.latency import worker
from kprune.search.latency.device import DeviceTimer
from kprune.search.latency.web import WebTimer
from kprune.targets.target import get_target

ROUNDS, SECONDS = 9, 0.003  # Of operators: visits to each, and how long one takes about.
_WHOLE_ROUNDS = 60  # Of whole files.
_AT_ONCE, _BYTES_AT_ONCE = 48, 1 << 28
_TIMEOUT = 300.0
_CHAIN = 50
_SAID = 500  # Characters of what a process wrote.
_ARCHITECTURES = {"litert-x86": ("x86_64", "amd64"), "litert-arm64": ("aarch64", "arm64")}


def check_target(target, measured=None, timer=None):
    """Return the `Target`, if its latency can be measured here, or was elsewhere.

    Raises:
        ValueError: it cannot; the message says what to do instead.
        ImportError: its runtime is not installed.
    """
    target = get_target(target)
    if target.compressed:
        raise ValueError(
            f"No operator is timed for {target.name!r}: Vela estimates whole files. Use "
            "kprune.optimize(model, target, latency=0.5), or prune_channels(model, flops=0.5). "
            f"Received: target={target.name!r}"
        )
    if measured is not None:
        if not Path(measured).is_file():
            raise FileNotFoundError(f"No such file: {measured}")
        if target.format != "tflite":
            raise ValueError(
                "`measured` is for targets that run .tflite files; in ONNX Runtime, prune on the "
                f"machine that it is for. Received: target={target.name!r}"
            )
    elif timer is None:
        if target.name == "litert-wasm":
            browser.find_browser()
            browser.find_package()
        needed = _ARCHITECTURES.get(target.name)
        here = platform.machine().lower()
        if needed and here not in needed:
            raise ValueError(
                f"{target.name!r} cannot be measured on this machine ({here}). "
                "kprune.search.write_operators(model, target, folder) writes files to time on a "
                "device with scripts/benchmark_device.py; pass the JSON that it writes as "
                f"`measured=`. Received: target={target.name!r}"
            )
    require_packages(target.format)
    return target


def check_threads(threads):
    """Raise `ValueError` unless `threads` is a number of threads."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"`threads` must be a positive int. Received: threads={threads!r}")


def timer_for(target, threads=1, measured=None):
    """Return what times the files of a target: see `LocalTimer`."""
    check_threads(threads)
    if measured is not None:
        return DeviceTimer(measured)
    if target.name == "litert-wasm":
        return WebTimer(threads)
    return LocalTimer(target.format, threads)


class LocalTimer:
    """Times files in their runtime on this machine.

    Args:
        format: `"tflite"` or `"onnx"`.
        threads: int, how many threads the runtime may use.
    """

    anywhere = True  # Operators of any shapes can be timed.

    def __init__(self, format, threads=1):
        self.suffix, self.threads, self._overhead = f".{format}", threads, None
        package = "ai-edge-litert" if format == "tflite" else "onnxruntime"
        self.runtime, self.version = package, importlib.metadata.version(package)

    @property
    def place(self):
        """What the times hold for, as plain data."""
        return [self.runtime, self.version, machine()["processor"], self.threads]

    def operators(self, requests, advance=lambda: None):
        """Time operators alone.

        Args:
            requests: list of `(SingleOperator, shapes)`.
            advance: function to call for each that is done.

        Returns:
            List of seconds; None where an operator cannot be put into a file of its own.
        """
        blobs = []
        for operator, shapes in requests:
            try:
                blobs.append(operator.file(shapes))
            except Exception:  # An operator of another kind than is known here.
                blobs.append(None)
        found = self._timed([blob for blob in blobs if blob is not None], advance)
        return [None if blob is None else next(found) for blob in blobs]

    def _timed(self, blobs, advance):
        done = []
        with scratch() as folder, _Child(self, folder) as process:
            if self._overhead is None:
                self._overhead = self._of_a_run(process)
            for part in _parts(blobs):
                for visits in process.run(part):
                    done.append(visits and max(0.0, statistics.median(visits) - self._overhead))
                    advance()
        return iter(done)

    def _of_a_run(self, process):
        """The seconds of a run that are not its operator's."""
        # Each operator has its share of what the runtime does between them.
        files = [self._nothing(1), self._nothing(1 + _CHAIN)]
        found = process.run(files)
        if None in found:
            raise RuntimeError(
                f"The process that times operators in {self.runtime} did not start, or does not "
                f"run a file of next to nothing: {process.said or 'it said nothing'}. See whether "
                f"{self.runtime} {self.version} can be imported, and whether memory is left; with "
                "a budget in `flops` nothing is timed."
            )
        one, many = map(statistics.median, found)
        return one - max(0.0, many - one) / _CHAIN

    def _nothing(self, length=1):
        return (tflite_empty if self.suffix == ".tflite" else onnx_empty)(length)

    def base(self):
        """Return the seconds of a file of next to nothing, as `seconds` gives them."""
        with scratch() as folder:
            path = folder / f"empty{self.suffix}"
            path.write_bytes(self._nothing())
            return self.seconds(path)

    def whole(self, dense, small):
        """Return the share of one file's latency that another has, timed side by side."""
        report = benchmark([dense, small], threads=self.threads, rounds=_WHOLE_ROUNDS)
        return 1 / report.rows[1].speedup

    def seconds(self, path):
        """Return the latency of a whole file."""
        return benchmark(path, threads=self.threads, rounds=_WHOLE_ROUNDS // 2).rows[0].median


def _parts(blobs):
    part, size = [], 0
    for blob in blobs:
        if part and (len(part) == _AT_ONCE or size + len(blob) > _BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(blob)
        size += len(blob)
    if part:
        yield part


class _Child:
    """The process that times files, started again when a file takes it down."""

    def __init__(self, timer, folder):
        runtimes = str(Path(worker.__file__).parents[2] / "runtimes")
        self._config = {"suffix": timer.suffix, "threads": timer.threads, "runtimes": runtimes,
                        "folder": str(folder)}  # fmt: skip
        self._folder, self._suffix, self._stack = Path(folder), timer.suffix, None
        self.said = ""  # The end of what the last process that was given up wrote to stderr.
        if timer.suffix == ".onnx":
            self._config["empty"] = str(self._folder / "empty.onnx")
            (self._folder / "empty.onnx").write_bytes(onnx_empty())

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _start(self):
        with ExitStack() as stack:
            errors = stack.enter_context(tempfile.TemporaryFile())
            command = [sys.executable, *python_flags(), worker.__file__, json.dumps(self._config)]
            settings = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
            settings["OMP_NUM_THREADS"] = str(self._config["threads"])
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            options |= {"text": True, "env": os.environ | settings}
            self._errors = errors
            self._process = stack.enter_context(child(command, **options))
            stack.callback(self._close)
            self._stack = stack.pop_all()

    def _close(self):
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()

    def run(self, blobs):
        """Return the times of each file's visits; None where it does not run."""
        paths = []
        for i, blob in enumerate(blobs):
            path = self._folder / f"{i}{self._suffix}"
            path.write_bytes(blob)
            paths.append(str(path))
        return self._run(paths)

    def _run(self, paths):
        answer = self._answer({"files": paths, "rounds": ROUNDS, "seconds": SECONDS})
        if answer is not None:
            return answer
        self._errors.seek(0)
        self.said = self._errors.read().decode(errors="replace").strip()[-_SAID:]
        self._stack.close()
        self._start()
        if len(paths) == 1:
            return [None]
        half = len(paths) // 2
        return self._run(paths[:half]) + self._run(paths[half:])

    def _answer(self, job):
        with suppress(OSError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        timer = threading.Timer(_TIMEOUT, self._process.terminate)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None
