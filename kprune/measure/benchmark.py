"""Latency of files in their real runtimes, measured side by side."""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import Progress

from kprune._system.children import child, python_flags
from kprune._system.type_aliases import FilePath, InputShape
from kprune.formats.onnx.flops import onnx_flops
from kprune.formats.tflite.flops import tflite_flops
from kprune.graphs.flops import flops
from kprune.graphs.load import load_keras
from kprune.graphs.signature import describe
from kprune.graphs.sizes import checked, concrete, sizes_of
from kprune.measure import estimates, worker
from kprune.measure.size import size
from kprune.report import plots, tables
from kprune.report.tables import Printable
from kprune.runtimes.vela_tables import VelaEstimate
from kprune.targets.target import Target

# A visit to a file runs it for about this long, so that short latencies are not all clock noise.
_VISIT_SECONDS = 0.02
_MAX_RUNS_A_VISIT = 200


@dataclass
class FileBenchmark:
    """What was measured of one file. Times in seconds, of one run on one batch.

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
        rows: a `FileBenchmark` for each file, in the order given.
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
        speed_note = (
            f"speed: latency of {names['file'][0]} / this file's, the median over interleaved "
            "rounds; above 1 is faster."
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
        target: an Ethos-U target, such as `"ethos-u55-128"`: nothing is measured then, and the
            other arguments but `files` are ignored.

    Returns:
        A `BenchmarkReport`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file of another kind, one that its runtime cannot load or run, or not in
            time, a file with a fixed batch other than `batch_size`, or sizes that do not fit it.
            The message names the file.
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
    order = random.Random(seed)
    with ExitStack() as stack:
        stderr = Console(stderr=True)
        progress = Progress(console=stderr, transient=True, disable=not stderr.is_terminal)
        stack.enter_context(progress)
        task = progress.add_task("Loading", total=len(paths) + rounds)
        runners, facts = [], []
        for file in paths:
            progress.update(task, description=f"Loading {file.name}")
            model = load_keras(file) if file.suffix == ".keras" else None
            arguments = None
            if model is not None:
                arguments = _keras_arguments(file, model, input_shape, free_dim)
            config = {
                "path": str(file),
                "threads": threads,
                "batch_size": batch_size,
                "free_dim": free_dim,
                "input_shape": None if model else input_shape,
                "seed": seed,
                "inputs": arguments and keras.tree.map_structure(asdict, arguments[0]),
            }
            # Runtimes check what they load; the parsers that count weights come after them.
            runner = stack.enter_context(Runner(file, config, timeout))
            runners.append(runner)
            sizes = sizes_of(arguments) if arguments else runner.shapes
            figures = size(file, model).to_dict() | {"path": str(file)}
            facts.append(figures | {"flops": file_flops(file, model, batch_size, sizes)})
            progress.advance(task)
        progress.update(task, description="Measuring")
        runs = [runner.calibrate(warmup) for runner in runners]
        times: list[list[float]] = [[] for _ in paths]
        medians: list[list[float]] = [[] for _ in paths]
        for _ in range(rounds):
            for i in order.sample(range(len(paths)), len(paths)):
                visit = runners[i].run(1 + runs[i])[1:]
                times[i] += visit
                medians[i].append(statistics.median(visit))
            progress.advance(task)
    measured = []
    for i, (runner, known) in enumerate(zip(runners, facts)):
        p10, p90 = percentiles(times[i])
        ratios = [first / this for first, this in zip(medians[0], medians[i])]
        measured.append(
            FileBenchmark(
                runtime=runner.runtime,
                median=statistics.median(times[i]),
                p10=p10,
                p90=p90,
                speedup=statistics.median(ratios),
                **known,
            )
        )
    versions = {runner.runtime: runner.version for runner in runners}
    return BenchmarkReport(
        measured, threads, batch_size, rounds, warmup, seed, machine() | {"runtimes": versions}
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
        if file.suffix not in worker.RUNTIMES:
            kinds = ", ".join(worker.RUNTIMES)
            raise ValueError(f"Can measure {kinds} files. Received: {file}")
        if not file.is_file():
            raise FileNotFoundError(f"No such file: {file}")


def check_timeout(timeout):
    """Raise ValueError unless `timeout` is a number of seconds."""
    real = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not real or not 0 < timeout < threading.TIMEOUT_MAX:
        raise ValueError(f"`timeout` must be positive seconds. Received: timeout={timeout!r}")


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


class Runner:
    """The process that runs one file, a context manager; see `worker` for its configuration."""

    def __init__(self, path, config, timeout):
        self.path, self.config, self.timeout = path, config, timeout

    def __enter__(self):
        threads = str(self.config["threads"])
        settings = {
            "KERAS_BACKEND": keras.backend.backend(),
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": threads,
        }
        with ExitStack() as stack:
            self.errors = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            command = [sys.executable, *python_flags(), worker.__file__, json.dumps(self.config)]
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
            options |= {"text": True, "env": os.environ | settings}
            self.process = stack.enter_context(child(command, **options))
            stack.callback(self._close_pipes)
            answer = self._answer()
            if "missing" in answer:
                raise ImportError(
                    f"{self.path} needs {answer['missing']} to run. "
                    'Install it with: pip install "kprune[export]"'
                )
            if "error" in answer:
                raise ValueError(f"{self.path} could not be run: {answer['error']}")
            self._stack = stack.pop_all()
        self.runtime, self.version = answer["runtime"], answer["version"]
        self.shapes = answer["shapes"]
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _close_pipes(self):
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # it wants to write what the process did not read
                pipe.close()

    def run(self, times):
        """Run the file this many times; returns the seconds each took."""
        with suppress(OSError):  # the process has ended: there will be no answer
            self.process.stdin.write(f"{times}\n")
            self.process.stdin.flush()
        return self._answer()

    def calibrate(self, warmup):
        """Warm up, and return how many runs a visit has."""
        latency = statistics.median(self.run(warmup + 3)[-3:])
        return max(1, min(_MAX_RUNS_A_VISIT, round(_VISIT_SECONDS / latency)))

    def _answer(self):
        late = threading.Event()
        timer = threading.Timer(self.timeout, lambda: (late.set(), self.process.terminate()))
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        code = self.process.wait()
        if late.is_set():
            raise ValueError(
                f"{self.path} did not run within {self.timeout:g} seconds: the file is damaged, or "
                "needs a longer `timeout`."
            )
        self.errors.seek(0)
        last = self.errors.read().strip().rsplit("\n", 1)[-1]
        raise ValueError(
            f"{self.path} took its runtime down (exit status {code}): the file is damaged, or "
            f"asks for more than this machine has. {last}".strip()
        )
