"""Files in the browser: do they run in LiteRT.js, with the right outputs, and how fast?"""

import os
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from kprune._system.files import scratch
from kprune._system.type_aliases import FilePath
from kprune.measure.benchmark import FileBenchmark, file_flops, machine, percentiles
from kprune.measure.runner import Runner, check_timeout
from kprune.measure.size import size
from kprune.measure.worker import recorded
from kprune.report import tables
from kprune.report.tables import Printable
from kprune.runtimes.litertjs import browser as browsers

# Differences are relative to an output's largest magnitude, or to this where that is smaller.
_TINY = 1e-6


@dataclass
class WebFile(FileBenchmark):
    """What was found out about one file in LiteRT.js; times are None if it was not timed.

    Attributes:
        difference: the largest difference of an output from LiteRT's on this machine's CPU,
            divided by that output's largest magnitude there; None if it did not run.
        reason: why the file must not be used in the browser: it does not run there, or its
            outputs differ by more than the tolerance. None if all is well.
    """

    median: float | None  # type: ignore[assignment]
    p10: float | None  # type: ignore[assignment]
    p90: float | None  # type: ignore[assignment]
    speedup: float | None  # type: ignore[assignment]
    difference: float | None = None
    reason: str | None = None


@dataclass(repr=False)
class WebReport(Printable):
    """What `benchmark_web` found out; prints as a table. Its JSON is that of `BenchmarkReport`.

    Attributes:
        rows: a `WebFile` for each file, in the order given.
        threads, batch_size, rounds, warmup, seed, tolerance: as asked for; always one thread.
        machine: processor, operating system, and the version of LiteRT.js.
    """

    rows: list[WebFile]
    threads: int
    batch_size: int
    rounds: int
    warmup: int
    seed: int
    tolerance: float
    machine: dict

    def __iter__(self) -> Iterator[WebFile]:
        return iter(self.rows)

    @property
    def failures(self) -> list[WebFile]:
        """The rows of files that do not run, or whose outputs differ."""
        return [row for row in self.rows if row.reason]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)

    def __rich__(self):
        names = {"file": [Path(row.path).name for row in self.rows]}
        latency = {
            ">median": [tables.milliseconds(row.median) for row in self.rows],
            ">p10": [tables.milliseconds(row.p10) for row in self.rows],
            ">p90": [tables.milliseconds(row.p90) for row in self.rows],
            ">speed": [tables.ratio(row.speedup) for row in self.rows],
            ">difference": [_scientific(row.difference) for row in self.rows],
            "outputs": [_verdict(row) for row in self.rows],
        }
        sizes = {
            ">size": [tables.size(row.bytes) for row in self.rows],
            ">gzipped": [tables.size(row.gzipped_bytes) for row in self.rows],
            ">parameters": [tables.count(row.parameters) for row in self.rows],
            ">non-zero": [tables.count(row.nonzeros) for row in self.rows],
            ">FLOPs": [tables.scaled(row.flops) for row in self.rows],
        }
        notes = [
            f"speed: latency of {names['file'][0]} / this file's, the median over interleaved "
            "rounds; above 1 is faster.",
            "difference: from LiteRT's outputs on this machine's CPU, relative to the largest; at "
            f"most {self.tolerance:g} is allowed.",
            *(f"{Path(row.path).name}: {row.reason}" for row in self.failures),
        ]
        version = self.machine["runtimes"]["LiteRT.js"]
        title = (
            f"LiteRT.js {version}, WebAssembly: {self.threads} thread, batch {self.batch_size}, "
            f"{self.rounds} rounds"
        )
        size_note = "parameters: of weights of rank 2 or more. FLOPs: zeros count; - if not known."
        return tables.Parts(names, (title, latency, notes), ("Size", sizes, [size_note]))


def _scientific(value):
    return tables.MISSING if value is None else f"{value:.1e}"


def _verdict(row):
    if row.difference is None:
        return "does not run"
    return "differ" if row.reason else "agree"


def benchmark_web(
    files: FilePath | Sequence[FilePath],
    rounds: int = 30,
    warmup: int = 10,
    seed: int = 0,
    batch_size: int = 1,
    tolerance: float = 1e-3,
    browser: FilePath | None = None,
    cache: FilePath | None = None,
    timeout: float = 60.0,
) -> WebReport:
    """Run `.tflite` files in LiteRT.js in a headless browser: outputs, and latency side by side.

    Each file runs once in LiteRT on this machine's CPU and, with the same input, in LiteRT.js
    (WebAssembly, one thread) in Chromium; the outputs are compared. Those that run are then timed
    as `benchmark` does it: in every round every file is visited once, in a new random order; a
    visit is one run that is not counted and then as many as fit into about 20 ms, of which the
    mean counts. A run takes its inputs from typed arrays and gives its outputs back as such.

    Example:

    ```python
    report = kprune.measure.benchmark_web(["dense.tflite", "pruned.tflite"])
    report.rows[1].speedup
    # Does it run there, and compute the right outputs?
    assert not kprune.measure.benchmark_web("pruned.tflite", rounds=0).failures
    ```

    Args:
        files: paths of `.tflite` files; speed is relative to the first.
        rounds: int, how many times every file is visited; 0 compares outputs, and times nothing.
        warmup: int, runs of each file before the first round.
        seed: int, for the inputs (as in `benchmark`) and for the order of visits.
        batch_size: int, examples a run, for files that leave it free.
        tolerance: float, the largest difference of an output to allow, relative to that output's
            largest magnitude.
        browser: path or name of the Chromium program; searched for by default, also in the
            environment variable `KPRUNE_BROWSER`.
        cache: folder that the npm package @litertjs/core is installed in; by default the one
            named by `KPRUNE_WEB_CACHE`, or `kprune/web` in the user's cache folder.
        timeout: float, seconds that a single step of a file may take in the browser, and its run
            in LiteRT on the CPU.

    Returns:
        A `WebReport`. A file that does not run there is no error: see `WebReport.failures`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no `.tflite` file, or one that LiteRT on the CPU cannot load or run (in time).
        BrowserMissing: Chromium or LiteRT.js is not installed (an ImportError); the message
            gives the command.
        BrowserError: the browser does not start (an OSError).
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    _validate(paths, rounds, warmup, timeout)
    browser, (_, version) = browsers.find_browser(browser), browsers.find_package(cache)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("LiteRT", total=len(paths) * (rounds + 2))
        facts, feeds, references = [], [], []
        for file in paths:
            progress.update(task, description=f"LiteRT: {file.name}")
            values, outputs = _reference(file, seed, batch_size, timeout)
            feeds.append(values)
            references.append(outputs)
            facts.append(size(file).to_dict() | {"path": str(file), "flops": file_flops(file)})
            progress.advance(task)
        progress.update(task, description="LiteRT.js")
        order = random.Random(seed)
        orders = [order.sample(range(len(paths)), len(paths)) for _ in range(rounds)]
        job = browsers.Job(paths, feeds, orders, warmup)

        def on_event(event):
            if event["stage"] in ("run", "timed"):
                progress.advance(task)

        outcomes = browsers.run(job, browser, cache, timeout, on_event)
    rows = [
        _row(fact, outcome, reference, outcomes[0], tolerance)
        for fact, outcome, reference in zip(facts, outcomes, references)
    ]
    about = machine() | {"runtimes": {"LiteRT.js": version}}
    return WebReport(rows, 1, batch_size, rounds, warmup, seed, tolerance, about)


def _validate(files, rounds, warmup, timeout):
    if not files:
        raise ValueError("Expected at least one file to run. Received none.")
    for name, value in {"rounds": rounds, "warmup": warmup}.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"`{name}` must be an int of at least 0. Received: {name}={value!r}")
    check_timeout(timeout)
    for file in files:
        if file.suffix != ".tflite":
            raise ValueError(f"LiteRT.js runs .tflite files. Received: {file}")
        if not file.is_file():
            raise FileNotFoundError(f"No such file: {file}")


def _reference(file, seed, batch_size, timeout):
    """Run a file in LiteRT on the CPU; its inputs and its outputs, {name: array} both."""
    with scratch() as folder:
        record = folder / "record.npz"
        config = {
            "path": str(file),
            "threads": 1,
            "batch_size": batch_size,
            "free_dim": None,
            "seed": seed,
            "inputs": None,
            "record": str(record),
        }
        with Runner(file, config, timeout):
            return recorded(record)


def _row(facts, outcome, reference, first, tolerance):
    times = outcome.times
    difference, reason = None, outcome.reason
    if reason is None:
        difference, reason = _difference(reference, outcome.outputs, tolerance)
    else:
        reason = f"it does not run in LiteRT.js: {reason}"
    p10, p90 = percentiles(times) if times else (None, None)
    speedup = None
    if times and len(times) == len(first.times):
        speedup = statistics.median(a / b for a, b in zip(first.times, times))
    return WebFile(
        runtime="LiteRT.js",
        median=statistics.median(times) if times else None,
        p10=p10,
        p90=p90,
        speedup=speedup,
        difference=difference,
        reason=reason,
        **facts,
    )


def _difference(reference, outputs, tolerance):
    """Return the largest relative difference, and why it is too much; None if it is not."""
    worst, where = 0.0, None
    for name, expected in reference.items():
        a = expected.astype("float64").ravel()
        b = outputs.get(name, np.empty(0)).astype("float64")
        if a.shape != b.shape:
            return None, f"its output '{name}' has {b.size} numbers in LiteRT.js, not {a.size}"
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return None, f"its output '{name}' is NaN or infinite in LiteRT.js only"
        scale = np.abs(a[finite]).max(initial=0.0)
        # Processors round differently, and a quantized output shows that as a whole unit.
        unit = 1.0 if expected.dtype.name in ("int8", "uint8", "int16") else 0.0
        largest = max(np.abs(a - b)[finite].max(initial=0.0) - unit, 0.0) / max(scale, _TINY)
        if largest >= worst:
            worst, where = float(largest), name
    if worst <= tolerance:
        return worst, None
    return worst, (
        f"its output '{where}' in LiteRT.js is {worst:.2g} (relative) from LiteRT's on this "
        f"machine's CPU; at most {tolerance:g} is allowed"
    )
