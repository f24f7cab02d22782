"""Latency of files in their real runtimes, measured side by side."""

import os
import platform
import random
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import Progress

from kprune._system.files import scratch
from kprune._system.type_aliases import FilePath, InputShape
from kprune.formats.onnx.flops import onnx_flops
from kprune.formats.tflite.flops import tflite_flops
from kprune.graphs.flops import flops
from kprune.graphs.load import load_keras
from kprune.graphs.signature import describe
from kprune.graphs.sizes import checked, concrete, sizes_of
from kprune.measure import estimates, worker
from kprune.measure.runner import Runner, check_timeout
from kprune.measure.size import size
from kprune.report import plots, tables
from kprune.report.tables import Printable
from kprune.runtimes.vela_tables import VelaEstimate
from kprune.targets.target import Target


@dataclass
class FileBenchmark:
    """What was measured of one file in one runtime. Times in seconds, of one run on one batch.

    `speedup` is the first file's latency divided by this file's, the median over rounds; above 1
    is faster. `parameters` and `nonzeros` count weights of rank 2 or more, as the file stores
    them. `flops` is by the definition of `kprune.flops`; None where it cannot be known.

    For an Ethos-U nothing is measured: `estimate` is Vela's `VelaEstimate`, and all times are its.
    """

    path: str
    runtime: str
    median: float
    p10: float
    p90: float
    speedup: float
    bytes: int
    gzipped_bytes: int
    parameters: int
    nonzeros: int
    flops: int | None
    estimate: VelaEstimate | None = None


@dataclass(repr=False)
class BenchmarkReport(Printable):
    """What `benchmark` measured; prints as a table.

    Attributes:
        rows: a `FileBenchmark` for each file, in the order given, and in each runtime.
        threads, batch_size, rounds, warmup, seed: as asked for.
        machine: processor, operating system and the runtimes' versions.
    """

    rows: list[FileBenchmark]
    threads: int
    batch_size: int
    rounds: int
    warmup: int
    seed: int
    machine: dict

    def __iter__(self) -> Iterator[FileBenchmark]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)

    def __rich__(self):
        names = {"file": [Path(row.path).name for row in self.rows]}
        if self.rows[0].estimate is not None:
            return estimates.table(self.rows, names)
        latency = {
            "runtime": [row.runtime for row in self.rows],
            ">median": [tables.milliseconds(row.median) for row in self.rows],
            ">p10": [tables.milliseconds(row.p10) for row in self.rows],
            ">p90": [tables.milliseconds(row.p90) for row in self.rows],
            ">speed": [tables.ratio(row.speedup) for row in self.rows],
        }
        sizes = {
            ">size": [tables.size(row.bytes) for row in self.rows],
            ">gzipped": [tables.size(row.gzipped_bytes) for row in self.rows],
            ">parameters": [tables.count(row.parameters) for row in self.rows],
            ">non-zero": [tables.count(row.nonzeros) for row in self.rows],
            ">FLOPs": [tables.scaled(row.flops) for row in self.rows],
        }
        title = f"Latency: {self.threads} thread(s), batch {self.batch_size}, {self.rounds} rounds"
        first = names["file"][0]
        if names["file"].count(first) > 1:
            first += f" in {self.rows[0].runtime}"
        speed_note = (
            f"speed: latency of {first} / this file's, the median over interleaved rounds; above 1 "
            "is faster."
        )
        size_note = "parameters: of weights of rank 2 or more. FLOPs: zeros count; - if not known."
        return tables.Parts(names, (title, latency, [speed_note]), ("Size", sizes, [size_note]))

    def plot(self, path: FilePath) -> None:
        """Draw latency and sizes as bars into a `.png`, `.svg` or `.pdf` file.

        Raises:
            ImportError: matplotlib is not installed.
        """
        rows = self.rows
        spread = ([1000 * row.p10 for row in rows], [1000 * row.p90 for row in rows])
        plots.bars(
            path,
            [f"{Path(row.path).name}\n{row.runtime}" for row in rows],
            [
                ("latency, ms (p10 to p90)", [1000 * row.median for row in rows], spread),
                ("size, MB", [row.bytes / 1e6 for row in rows]),
                ("gzipped, MB", [row.gzipped_bytes / 1e6 for row in rows]),
            ],
            title=f"{self.threads} thread(s), batch {self.batch_size}",
        )


def benchmark(
    files: FilePath | Sequence[FilePath],
    threads: int = 1,
    batch_size: int = 1,
    rounds: int = 30,
    warmup: int = 10,
    seed: int = 0,
    free_dim: int | None = None,
    timeout: float = 300.0,
    input_shape: InputShape | None = None,
    runtimes: str | Sequence[str] | None = None,
    target: Target | str | None = None,
) -> BenchmarkReport:
    """Measure latency and size of model files, each in its real runtime on the CPU.

    `.keras` runs in Keras (compiled `predict_on_batch`, on the backend in use), `.tflite` in
    LiteRT, `.onnx` in ONNX Runtime, each in a process of its own. In every round every file is
    visited once, in a new random order; a visit is one run that is not counted and then as many
    as fit into about 20 ms. So a machine that slows down for a while slows all files alike, and
    it is the ratios, taken round by round, that can be trusted. A run takes its inputs from NumPy
    arrays and gives its outputs back as such.

    For an Ethos-U, which is not on this machine, Vela's estimates are shown side by side instead:
    of int8 `.tflite` files, which it compiles, with a `target`; or of the compiled files that
    `export_tflite` wrote, whose estimates are in the `.json` beside each.

    Example:

    ```python
    report = kprune.benchmark(["dense.tflite", "pruned.tflite"])
    print(report)
    report.rows[1].speedup
    print(kprune.benchmark("dense.tflite", runtimes=["litert", "openvino"]))
    kprune.benchmark(["dense_vela.tflite", "pruned_vela.tflite"]).rows[1].estimate.cycles
    ```

    Args:
        files: paths of `.keras`, `.tflite` and `.onnx` files, in any mix; speed is relative to
            the first.
        threads: int, how many threads each runtime may use.
        batch_size: int, examples a run.
        rounds: int, how many times every file is visited.
        warmup: int, runs of each file before the first round.
        seed: int, for the inputs (normal noise; zeros and ones where ids are expected; the whole
            range where the input is quantized) and for the order of visits.
        free_dim: int, one size for the dynamic dimensions of a file, the batch aside.
        timeout: float, seconds that loading a file and running it once, its warmup, or a visit
            may take.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            sizes to run at, where a file leaves them open. `.keras` files go without: by default
            they run as `kprune.flops` counts them.
        runtimes: which to run each file in, of `"keras"`, `"litert"`, `"onnxruntime"` and
            `"openvino"` (`.onnx` and `.tflite`, in float32 arithmetic); by default its own. A file
            has a row for each that reads its format. In another than its own its outputs must be
            those of its own, whose names they have.
        target: an Ethos-U target, such as `"ethos-u55-128"`: nothing is measured then, and the
            other arguments but `files` are ignored.

    Returns:
        A `BenchmarkReport`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file of another kind, one that its runtime cannot load or run, or not in
            time, a file with a fixed batch other than `batch_size`, or sizes that do not fit it;
            a runtime that computes something else than the file's own. The message names the file.
        ImportError: a runtime is not installed.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    _validate(paths, threads, batch_size, rounds, warmup, free_dim)
    check_timeout(timeout)
    found = estimates.of(paths, target)
    if found is not None:
        rows = [FileBenchmark(**each) for each in found]
        return BenchmarkReport(rows, threads, batch_size, 0, 0, seed, machine())
    input_shape = checked(input_shape)
    plan = _plan(paths, runtimes)
    config = {
        "threads": threads,
        "batch_size": batch_size,
        "free_dim": free_dim,
        "input_shape": input_shape,
        "seed": seed,
    }
    order = random.Random(seed)
    with ExitStack() as stack:
        stderr = Console(stderr=True)
        progress = Progress(console=stderr, transient=True, disable=not stderr.is_terminal)
        stack.enter_context(progress)
        task = progress.add_task("Loading", total=len(plan) + rounds)
        runners, facts = [], []
        for file, runtime in plan:
            progress.update(task, description=f"Loading {file.name}")
            runner, model, sizes = _start(file, runtime, config, timeout, stack)
            runners.append(runner)
            # Runtimes check what they load; the parsers that count weights come after them.
            figures = size(file, model).to_dict() | {"path": str(file)}
            facts.append(figures | {"flops": file_flops(file, model, batch_size, sizes)})
            progress.advance(task)
        progress.update(task, description="Measuring")
        runs = [runner.calibrate(warmup) for runner in runners]
        times: list[list[float]] = [[] for _ in plan]
        medians: list[list[float]] = [[] for _ in plan]
        for _ in range(rounds):
            for i in order.sample(range(len(plan)), len(plan)):
                visit = runners[i].run(1 + runs[i])[1:]
                times[i] += visit
                medians[i].append(statistics.median(visit))
            progress.advance(task)
    measured = [
        _row(runner, known, times[i], medians[0], medians[i])
        for i, (runner, known) in enumerate(zip(runners, facts))
    ]
    versions = {runner.runtime: runner.version for runner in runners}
    return BenchmarkReport(
        measured, threads, batch_size, rounds, warmup, seed, machine() | {"runtimes": versions}
    )


def _plan(files, runtimes):
    """Return which file to run in which runtime, in order."""
    if runtimes is None:
        return [(file, worker.OWN[file.suffix]) for file in files]
    names = [runtimes] if isinstance(runtimes, str) else list(runtimes)
    if not names or any(name not in worker.RUNTIMES for name in names):
        known = list(worker.RUNTIMES)
        raise ValueError(f"`runtimes` must be some of {known}. Received: runtimes={runtimes!r}")
    plan = []
    for file in files:
        reading = [name for name in names if file.suffix in worker.RUNTIMES[name][1]]
        if not reading:
            raise ValueError(f"{file} is read by none of the `runtimes` asked for: {names}")
        plan += [(file, name) for name in reading]
    return plan


def _start(file, runtime, config, timeout, stack):
    """Start the process of a file in a runtime; return its `Runner`, the model, its sizes."""
    model = load_keras(file) if file.suffix == ".keras" else None
    arguments = None
    if model is not None:
        arguments = _keras_arguments(file, model, config["input_shape"], config["free_dim"])
    config = config | {
        "path": str(file),
        "runtime": runtime,
        "input_shape": None if model else config["input_shape"],
        "inputs": arguments and keras.tree.map_structure(asdict, arguments[0]),
    }
    with scratch() as folder:
        own = worker.OWN[file.suffix]
        if runtime != own:
            record = str(folder / "expected.npz")
            with Runner(file, config | {"runtime": own, "record": record}, timeout):
                config["like"] = record
        runner = stack.enter_context(Runner(file, config, timeout))
    return runner, model, sizes_of(arguments) if arguments else runner.shapes


def _row(runner, facts, times, first, medians):
    p10, p90 = percentiles(times)
    return FileBenchmark(
        runtime=runner.runtime,
        median=statistics.median(times),
        p10=p10,
        p90=p90,
        speedup=statistics.median(a / b for a, b in zip(first, medians)),
        **facts,
    )


def _validate(files, threads, batch_size, rounds, warmup, free_dim):
    if not files:
        raise ValueError("Expected at least one file to measure. Received none.")
    numbers = {"threads": threads, "batch_size": batch_size, "rounds": rounds}
    if free_dim is not None:
        numbers["free_dim"] = free_dim
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive int. Received: {name}={value!r}")
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"`warmup` must be an int of at least 0. Received: warmup={warmup!r}")
    for file in files:
        if file.suffix not in worker.OWN:
            kinds = ", ".join(worker.OWN)
            raise ValueError(f"Can measure {kinds} files. Received: {file}")
        if not file.is_file():
            raise FileNotFoundError(f"No such file: {file}")


def _keras_arguments(file, model, input_shape, free_dim):
    """Return what `predict` takes, `TensorSpec`s of which only the batch is dynamic, in a list."""
    arguments = describe(model).arguments
    if len(arguments) > 1:
        raise ValueError(
            f"{file}: its model takes its inputs as several arguments, which `predict` cannot "
            "pass. Measure its .tflite or .onnx export instead."
        )
    try:
        return concrete(model, arguments, input_shape, free_dim)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def file_flops(file, model=None, batch_size=1, sizes=None):
    """Count the FLOPs of a file, or of the Keras model it holds; None where they are not known.

    `sizes` are those of the model's inputs without the batch, or those that the file ran at. A
    runtime can be content with a file that the counter is not: that is a warning.
    """
    if model is not None:
        report = flops(model, batch_size, input_shape=sizes)
        return None if report.uncounted else report.total
    data = file.read_bytes()
    try:
        if file.suffix == ".tflite":
            return tflite_flops(data)
        return onnx_flops(data, batch_size, sizes)
    except Exception as error:  # what a parser runs into is anyone's guess
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"The FLOPs of {file} are not known: {reason}", stacklevel=3)
        return None


def percentiles(times):
    """Return the 10th and the 90th percentile."""
    if len(times) < 2:
        return times[0], times[0]
    deciles = statistics.quantiles(times, n=10, method="inclusive")
    return deciles[0], deciles[-1]


def machine():
    """Describe this machine: processor, operating system, Python."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
