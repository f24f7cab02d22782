"""Operators and files in LiteRT.js, timed in a browser on this machine."""

import random
import statistics

import numpy as np

from kprune._system.files import scratch
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.measure.benchmark import machine
from kprune.measure.web import benchmark_web
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.litertjs import browser

_ROUNDS, _WHOLE_ROUNDS = 5, 40
_LARGE = 1 << 16  # Numbers that go in and out, to see what they cost.


class WebTimer:
    """Times files in LiteRT.js, as `LocalTimer` does it on this machine's own processor.

    A run there has its inputs copied in and its outputs out. What that costs is measured on
    operators that compute next to nothing, and subtracted.
    """

    anywhere = True

    def __init__(self, threads=1):
        if threads != 1:
            raise ValueError(f"LiteRT.js runs on one thread. Received: threads={threads}")
        self._version, self._copying = browser.find_package()[1], None

    @property
    def place(self):
        """What the times hold for, as plain data."""
        return ["LiteRT.js", self._version, machine()["processor"], 1]

    def operators(self, requests, advance=lambda: None):
        """The seconds of `(SingleOperator, shapes)`; None for those that do not run alone."""
        blobs = [_file(*request) for request in requests]
        if self._copying is None:
            self._copying = self._of_copying()
        times = self._timed([blob for blob in blobs if blob is not None], advance)
        return [None if blob is None else next(times) for blob in blobs]

    def _of_copying(self):
        """`(seconds of a run, seconds of a number that goes in or out)` besides computing."""
        blobs = [tflite_empty(), tflite_empty(size=_LARGE)]
        one, large = (statistics.median(times) for times, _ in self._runs(blobs))
        return one, max(0.0, large - one) / (2 * _LARGE)

    def _timed(self, blobs, advance):
        base, each = self._copying
        for times, numbers in self._runs(blobs):
            advance()
            seconds = statistics.median(times) if times else None
            yield None if seconds is None else max(0.0, seconds - base - each * numbers)

    def _runs(self, blobs):
        """Yield `(times, numbers that go in and out)` of each file."""
        with scratch() as folder:
            paths, feeds, numbers = [], [], []
            for i, blob in enumerate(blobs):
                paths.append(folder / f"{i}.tflite")
                paths[-1].write_bytes(blob)
                given, count = _feeds(blob)
                feeds.append(given)
                numbers.append(count)
            order = random.Random(0)
            orders = [order.sample(range(len(paths)), len(paths)) for _ in range(_ROUNDS)]
            outcomes = browser.run(browser.Job(paths, feeds, orders, 3)) if paths else []
        for outcome, count in zip(outcomes, numbers):
            yield (None if outcome.reason else outcome.times), count

    def seconds(self, path):
        """The latency of a whole file."""
        return self._rows([path], _WHOLE_ROUNDS // 2)[0].median

    def base(self):
        """The seconds of a file of next to nothing."""
        with scratch() as folder:
            path = folder / "empty.tflite"
            path.write_bytes(tflite_empty())
            return self.seconds(path)

    def whole(self, dense, small):
        """The share of one file's latency that another has, timed side by side."""
        return 1 / self._rows([dense, small], _WHOLE_ROUNDS)[1].speedup

    def _rows(self, files, rounds):
        report = benchmark_web(files, rounds=rounds)
        if report.failures:
            raise ValueError(f"{report.failures[0].path}: {report.failures[0].reason}")
        return report.rows


def _file(operator, shapes):
    try:
        blob = operator.file(shapes)
        _feeds(blob)
    except Exception:  # Of a kind that is not known here, or does not run.
        return None
    return blob


def _feeds(blob):
    """Inputs for a file, and how many numbers go in and out."""
    file, rng = LiteRT(blob, 1), np.random.default_rng(0)
    feeds = {}
    for name, (dims, dtype, _) in file.inputs.items():
        floating = np.issubdtype(dtype, np.floating)
        feeds[name] = rng.standard_normal(dims).astype(dtype) if floating else np.zeros(dims, dtype)
    outputs = file(feeds)
    return feeds, sum(value.size for value in [*feeds.values(), *outputs.values()])
