"""Check and time model files on a device: a Raspberry Pi, an ARM server.

This one file is all that is copied there, with the models; it needs Python 3.9, NumPy, and
ai-edge-litert (for .tflite) or onnxruntime (for .onnx), and nothing of kprune.

    workstation$ python scripts/benchmark_device.py --record dense.tflite pruned.tflite
    workstation$ scp scripts/benchmark_device.py *.tflite *.check.npz pi:
    pi$          pip install numpy ai-edge-litert
    pi$          python benchmark_device.py dense.tflite pruned.tflite --json pi.json
    workstation$ kprune benchmark dense.tflite pruned.tflite --compare pi.json

`--record` runs each model on a random input and writes both, and what came out, beside it
(`pruned.tflite.check.npz`). On the device the same input must give the same output; then the
files are timed side by side, as `kprune benchmark` does it: each in a process of its own, visited
in shuffled rounds. Exit status 1 if a file does not run or its outputs differ.

Of many small files, as `kprune.search.write_operators` makes them, only the time counts: with
`--together` they run in one process, on noise, without recorded values, and only the computing is
timed. One that does not run there has no time, and the others do.

    workstation$ scp -r scripts/benchmark_device.py operators pi:
    pi$          python benchmark_device.py --together operators/*.tflite --json device.json
"""

import argparse
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

# A visit to a file runs it for about this long, so that short latencies are not all clock noise.
VISIT_SECONDS = 0.02
MAX_RUNS_A_VISIT = 200
# Differences are relative to an output's largest magnitude, or to this where that is smaller.
TINY = 1e-6
MOST_NUMBERS = 1 << 28  # in an input
# Of --together: files at once in memory, and how long a visit takes.
TOGETHER, SHORT_VISIT_SECONDS = 48, 0.005


class Failed(Exception):
    """A file that cannot be used here; the message says why."""


# --- The runtimes: {name: array} in, {name: array} out ------------------------------------------


class LiteRT:
    """A .tflite file."""

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self.name, self.version = "LiteRT", _version("ai-edge-litert")
        self.interpreter = Interpreter(model_path=path, num_threads=threads)
        self.ins, self.outs = self._tensors()
        self.inputs = [
            (
                name,
                _dims(d["shape_signature"]),
                d["dtype"],
                d["quantization_parameters"]["scales"].size,
            )
            for name, d in self.ins.items()
        ]

    def _tensors(self):
        """Return the details of inputs and outputs, by their names in the signature."""
        ins, outs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        for key in self.interpreter.get_signature_list():
            runner = self.interpreter.get_signature_runner(key)
            named = runner.get_input_details(), runner.get_output_details()
            of_the_graph = [{d["index"] for d in details} for details in (ins, outs)]
            if [{d["index"] for d in details.values()} for details in named] == of_the_graph:
                return named
        return {d["name"]: d for d in ins}, {d["name"]: d for d in outs}

    def compute(self):
        """Run on the inputs of the last run; nothing is copied."""
        self.interpreter.invoke()

    def prepare(self, feeds):
        """Take the inputs of the runs that follow."""
        for name, value in feeds.items():
            if tuple(self.ins[name]["shape"]) != value.shape:
                self.interpreter.resize_tensor_input(self.ins[name]["index"], value.shape)
        self.interpreter.allocate_tensors()
        self.feeds = feeds

    def run(self):
        """Run once."""
        for name, value in self.feeds.items():
            self.interpreter.set_tensor(self.ins[name]["index"], value)
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(d["index"]) for name, d in self.outs.items()}


class ONNXRuntime:
    """An .onnx file."""

    def __init__(self, path, threads):
        import onnxruntime

        self.name, self.version = "ONNX Runtime", onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        kinds = {"float": "float32", "double": "float64"}
        self.inputs = []
        for node in self.session.get_inputs():
            kind = node.type.replace("tensor(", "").replace(")", "")
            self.inputs.append((node.name, _dims(node.shape), kinds.get(kind, kind), False))
        self.outs = [node.name for node in self.session.get_outputs()]

    def compute(self):
        """Run on the inputs of the last run."""
        self.run()

    def prepare(self, feeds):
        """Take the inputs of the runs that follow."""
        self.feeds = feeds

    def run(self):
        """Run once."""
        return dict(zip(self.outs, self.session.run(self.outs, self.feeds)))


RUNTIMES = {".tflite": LiteRT, ".onnx": ONNXRuntime}
PACKAGES = {".tflite": "ai-edge-litert", ".onnx": "onnxruntime"}


def _version(package):
    from importlib.metadata import version

    return version(package)


def _dims(shape):
    """Return a shape's sizes as ints, None where they are free."""
    return [int(d) if not isinstance(d, str) and d is not None and d > 0 else None for d in shape]


@contextmanager
def quiet():
    """Keep from the user what the runtimes write to file descriptor 2."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def load(path, threads):
    """Load a file in its runtime."""
    try:
        return RUNTIMES[path.suffix](str(path), threads)
    except ImportError as error:
        raise Failed(
            f"{error.name} is not installed. Install it with: pip install {PACKAGES[path.suffix]}"
        ) from error
    except Exception as error:  # each runtime has its own classes for a file it cannot read
        raise Failed(f"it cannot be loaded: {error}") from error


# --- Recorded values ----------------------------------------------------------------------------


def check_file(path):
    """Return where a model's recorded values are."""
    return path.with_name(path.name + ".check.npz")


def unfinished(path):
    """Return where they are while they are written."""
    return path.with_name("." + check_file(path).name + ".tmp.npz")


def random_input(name, dims, dtype, quantized, batch_size, rng):
    """Make an input: normal noise, or small ids; the whole range where it is quantized."""
    import numpy as np

    dims = [batch_size if i == 0 and d is None else d for i, d in enumerate(dims)]
    if None in dims:
        raise Failed(f"its input '{name}' has dynamic dimensions besides the batch: {dims}")
    dtype = np.dtype(dtype)
    if math.prod(dims) > MOST_NUMBERS:
        raise Failed(f"its input '{name}' says to hold {math.prod(dims):,} numbers")
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(dims).astype(dtype)
    if np.issubdtype(dtype, np.integer) and quantized:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, dims, dtype=dtype)
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        return rng.integers(0, 2, dims).astype(dtype)
    raise Failed(f"its input '{name}' is of dtype {dtype}, and no random one can be made")


def record(path, threads, batch_size, seed):
    """Run a model on a random input; write input and output beside it."""
    import numpy as np

    with quiet():
        model, rng = load(path, threads), np.random.default_rng(seed)
        feeds = {each[0]: random_input(*each, batch_size, rng) for each in model.inputs}
        outputs = run_once(model, feeds)
    arrays = {"sha256": np.array(_sha256(path)), "batch_size": np.array(batch_size)}
    for kind, values in (("input", feeds), ("output", outputs)):
        arrays[kind + "_names"] = np.array(list(values), "U")
        for i, value in enumerate(values.values()):
            arrays[f"{kind}_{i}"] = value
    target, temporary = check_file(path), unfinished(path)
    try:
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, target)
    finally:
        if temporary.exists():
            temporary.unlink()
    return target


def recorded(path):
    """Read a model's recorded values: inputs, outputs, batch size."""
    import numpy as np

    source = check_file(path)
    again = f"Make it on the workstation: python benchmark_device.py --record {path.name}"
    if not source.is_file():
        raise Failed(f"there is no {source.name} beside it. {again}")
    try:
        with np.load(source) as arrays:  # no pickle: nothing in it is executed
            sides = [
                {str(n): arrays[f"{kind}_{i}"] for i, n in enumerate(arrays[kind + "_names"])}
                for kind in ("input", "output")
            ]
            digest, batch_size = str(arrays["sha256"]), int(arrays["batch_size"])
    except Exception as error:  # zip, zlib, NumPy: each has its own for damaged bytes
        raise Failed(f"{source.name} is damaged ({error}). {again}") from error
    if digest != _sha256(path):
        raise Failed(f"{source.name} was recorded for another version of it. {again}")
    return sides[0], sides[1], batch_size


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_once(model, feeds):
    """Prepare a model for the inputs and run it."""
    if set(feeds) != {each[0] for each in model.inputs}:
        raise Failed(f"it takes {[each[0] for each in model.inputs]}, not {list(feeds)}")
    try:
        model.prepare(feeds)
        return model.run()
    except Exception as error:  # as in `load`
        raise Failed(f"it does not run: {error}") from error


def difference(expected, outputs, tolerance):
    """Return the largest relative difference, and why it is too much; None if it is not."""
    import numpy as np

    worst, where = 0.0, None
    for name, a in expected.items():
        if name not in outputs or outputs[name].shape != a.shape:
            return None, f"its output '{name}' is missing or has another shape than was recorded"
        # Processors round differently, and a quantized output shows that as a whole unit.
        unit = 1.0 if a.dtype.name in ("int8", "uint8", "int16") else 0.0
        a, b = a.astype("float64"), outputs[name].astype("float64")
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return None, f"its output '{name}' is NaN or infinite here"
        scale = np.abs(a[finite]).max(initial=0.0)
        apart = max(np.abs(a - b)[finite].max(initial=0.0) - unit, 0.0)
        largest = float(apart / max(scale, TINY))
        if largest >= worst:
            worst, where = largest, name
    if worst <= tolerance:
        return worst, None
    return worst, (
        f"its output '{where}' is {worst:.2g} (relative) from the recorded one; at most "
        f"{tolerance:g} is allowed"
    )


# --- One file in a process of its own -----------------------------------------------------------


def start(function, *arguments):
    """Run `function(pipe, *arguments)` in a new process; returns it and our end of the pipe."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=function, args=(other, *arguments), daemon=True)
    process.start()
    other.close()
    return process, pipe


def answer(process, pipe, timeout):
    """Return what a process sends; it may crash on a damaged file, or never end."""
    try:
        if pipe.poll(timeout):
            return pipe.recv()
    except (EOFError, OSError):
        process.join()
        raise Failed(f"it took its runtime down (exit {process.exitcode})") from None
    process.kill()
    raise Failed(f"it did not run within {timeout:g} seconds (--timeout)")


def limit_memory():
    """Let a file that claims more memory than is free fail, and not the device (on Linux)."""
    try:
        import resource

        lines = Path("/proc/meminfo").read_text().splitlines()
    except (ImportError, OSError):
        return
    facts = dict(line.split(":", 1) for line in lines)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Libraries and the stacks of threads are addresses more than memory.
    resource.setrlimit(resource.RLIMIT_AS, (free + 2**31, hard))


def serve_record(pipe, *arguments):
    """Record a model's values; answer with (where they are, None), or (None, why not)."""
    limit_memory()
    try:
        pipe.send((record(*arguments), None))
    except Failed as error:
        pipe.send((None, str(error)))


def record_apart(path, threads, batch_size, seed, timeout):
    """Record a model's values in a process of its own."""
    process, pipe = start(serve_record, path, threads, batch_size, seed)
    try:
        target, reason = answer(process, pipe, timeout)
    finally:
        process.kill()
        process.join()
        if unfinished(path).exists():
            unfinished(path).unlink()
    if reason:
        raise Failed(reason)
    return target


def serve(pipe, path, threads, tolerance):
    """Check the file, answer with what was found; then run it as often as told."""
    limit_memory()
    found = {"runtime": None, "version": None, "difference": None, "reason": None}
    try:
        feeds, expected, found["batch_size"] = recorded(path)
        with quiet():
            model = load(path, threads)
            found["runtime"], found["version"] = model.name, model.version
            outputs = run_once(model, feeds)
        found["difference"], found["reason"] = difference(expected, outputs, tolerance)
    except Failed as error:
        found["reason"] = str(error)
    pipe.send(found)
    while found["difference"] is not None:
        try:
            times = pipe.recv()
        except EOFError:
            return
        answer = []
        for _ in range(times):
            start = time.perf_counter()
            model.run()
            answer.append(time.perf_counter() - start)
        pipe.send(answer)


def serve_together(pipe, paths, threads, rounds, seed):
    """Time files in one process; send (number, runtime, version, times of its visits) of each."""
    import numpy as np

    limit_memory()
    order, rng = random.Random(seed), np.random.default_rng(seed)
    for start in range(0, len(paths), TOGETHER):
        numbers = range(start, min(start + TOGETHER, len(paths)))
        models = {}
        for i in numbers:
            pipe.send((i, None, None, None))  # Should it take the process down.
            try:
                with quiet():
                    model = load(paths[i], threads)
                    feeds = {each[0]: random_input(*each, 1, rng) for each in model.inputs}
                    run_once(model, feeds)
            except Failed:
                continue
            latency = statistics.median(seconds_of(model.compute, 3)) + 1e-9
            runs = max(3, min(MAX_RUNS_A_VISIT, round(SHORT_VISIT_SECONDS / latency)))
            models[i] = model, runs, []
        for _ in range(rounds):
            for i in order.sample(sorted(models), len(models)):
                model, runs, times = models[i]
                times.append(statistics.median(seconds_of(model.compute, 1 + runs)[1:]))
        for i, (model, _, times) in models.items():
            pipe.send((i, model.name, model.version, times))
    pipe.send(None)


def seconds_of(function, times):
    """Call a function so often; return the seconds of each call."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def measure_together(files, threads, rounds, seed, timeout):
    """Time files in one process, or in another without the one that takes it down."""
    found, bad, waiting = {}, {}, list(files)
    while waiting:
        process, pipe = start(serve_together, waiting, threads, rounds, seed)
        current = waiting[0]
        try:
            while True:
                said = answer(process, pipe, timeout)
                if said is None:
                    waiting = []
                    break
                current = waiting[said[0]]
                if said[1] is not None:
                    found[current] = said[1:]
                    show_progress(len(found), len(files))
        except Failed as error:
            bad[current] = str(error)
            waiting = [f for f in waiting if f not in found and f not in bad]
        finally:
            process.kill()
            process.join()
    show_progress()
    rows = [together_row(file, found.get(file), bad.get(file)) for file in files]
    versions = {row[0]: row[1] for row in found.values()}
    return {
        "rows": rows, "threads": threads, "batch_size": 1, "rounds": rounds, "warmup": 0,
        "seed": seed, "tolerance": None, "machine": dict(machine(), runtimes=versions),
    }  # fmt: skip


def together_row(file, found, reason):
    """What was measured of a file, as plain data."""
    runtime, _, times = found or (None, None, None)
    return {
        "path": str(file),
        "runtime": runtime,
        "median": statistics.median(times) if times else None,
        "difference": None,
        "reason": None if found else reason or "it does not run",
    }


def show_progress(done=None, total=None):
    """Say on a terminal how many files are timed."""
    if sys.stderr.isatty():
        text = "" if done is None else f"{done}/{total} files"
        print(f"\r{text:30}", end="" if text else "\r", file=sys.stderr, flush=True)


class Runner:
    """The process of one file, as the main one sees it."""

    def __init__(self, path, threads, tolerance, timeout):
        self.path, self.timeout, self.times, self.medians = path, timeout, [], []
        self.process, self.pipe = start(serve, path, threads, tolerance)
        self.found = {"runtime": None, "version": None, "difference": None, "reason": None}
        self.runs = 0
        self.found = self._answer() or self.found

    def _answer(self):
        try:
            return answer(self.process, self.pipe, self.timeout)
        except Failed as error:
            self.found["reason"] = str(error)
            self.runs, self.medians = 0, []
            return None

    def run(self, times):
        """Run the file this many times; returns the seconds each took, None if it crashed."""
        with suppress(OSError):
            self.pipe.send(times)
        return self._answer()

    def calibrate(self, warmup):
        """Warm up, and settle how many runs a visit has; none for files that do not run."""
        if self.found["difference"] is None:
            return
        times = self.run(warmup + 3)
        if times:
            latency = statistics.median(times[-3:])
            self.runs = max(1, min(MAX_RUNS_A_VISIT, round(VISIT_SECONDS / latency)))

    def visit(self):
        """One run that is not counted, then the others."""
        times = self.runs and self.run(1 + self.runs)
        if times:
            self.times += times[1:]
            self.medians.append(statistics.median(times[1:]))

    def row(self, first):
        """Return what was measured, as plain data."""
        data = self.path.read_bytes()
        done = bool(self.medians)
        deciles = [self.times[0]] * 2 if done else [None] * 2
        if done and len(self.times) > 1:
            deciles = statistics.quantiles(self.times, n=10, method="inclusive")
        speedup = None
        if done and len(first.medians) == len(self.medians):
            speedup = statistics.median(a / b for a, b in zip(first.medians, self.medians))
        return {
            "path": str(self.path),
            "runtime": self.found["runtime"],
            "median": statistics.median(self.times) if done else None,
            "p10": deciles[0],
            "p90": deciles[-1],
            "speedup": speedup,
            "bytes": len(data),
            "gzipped_bytes": len(gzip.compress(data, 9, mtime=0)),
            # To count these, files must be parsed, which takes more packages.
            "parameters": None,
            "nonzeros": None,
            "flops": None,
            "difference": self.found["difference"],
            "reason": self.found["reason"],
        }


def measure(files, threads, rounds, warmup, seed, tolerance, timeout):
    """Check and time files; returns the report, in the schema of `kprune benchmark --json`."""
    runners = []
    try:
        for file in files:
            runners.append(Runner(file, threads, tolerance, timeout))
        for runner in runners:
            runner.calibrate(warmup)
        order = random.Random(seed)
        for _ in range(rounds):
            for runner in order.sample(runners, len(runners)):
                runner.visit()
    finally:
        for runner in runners:
            runner.process.kill()
    batches = {runner.found.get("batch_size") for runner in runners} - {None}
    versions = {r.found["runtime"]: r.found["version"] for r in runners if r.found["runtime"]}
    return {
        "rows": [runner.row(runners[0]) for runner in runners],
        "threads": threads,
        "batch_size": batches.pop() if len(batches) == 1 else None,
        "rounds": rounds,
        "warmup": warmup,
        "seed": seed,
        "tolerance": tolerance,
        "machine": dict(machine(), runtimes=versions),
    }


def machine():
    """Describe this machine."""
    processor = platform.processor() or platform.machine()
    board = Path("/proc/device-tree/model")  # "Raspberry Pi 5 Model B Rev 1.0"
    cpuinfo = Path("/proc/cpuinfo")
    if board.is_file():
        processor = board.read_text(errors="replace").rstrip("\0\n")
    elif cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


# --- The terminal -------------------------------------------------------------------------------


def show(report):
    """Print a report as a table."""

    def milliseconds(seconds):
        return "-" if seconds is None else f"{1000 * seconds:.3f} ms"

    table = [["file", "runtime", "median", "p10", "p90", "speed", "difference", "outputs"]]
    for row in report["rows"]:
        ran = row["difference"] is not None
        table.append(
            [
                Path(row["path"]).name,
                row["runtime"] or "-",
                milliseconds(row["median"]),
                milliseconds(row["p10"]),
                milliseconds(row["p90"]),
                "-" if row["speedup"] is None else f"{row['speedup']:.2f}x",
                f"{row['difference']:.1e}" if ran else "-",
                "agree" if not row["reason"] else "differ" if ran else "does not run",
            ]
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    about = report["machine"]
    print(f"{about['processor']} ({about['architecture']}), {report['threads']} thread(s)")
    for line in table:
        cells = [
            cell.ljust(width) if i in (0, 1, 7) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ]
        print("  ".join(cells).rstrip())


def arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help=".tflite and .onnx files")
    parser.add_argument("--record", action="store_true", help="write FILE.check.npz and stop")
    parser.add_argument("--together", action="store_true", help="many small files: only the time")
    parser.add_argument("--batch-size", type=int, default=1, help="of --record")
    parser.add_argument("--threads", type=int, default=1, help="threads each runtime may use")
    parser.add_argument("--rounds", type=int, default=30, help="visits to every file")
    parser.add_argument("--warmup", type=int, default=10, help="runs before the first round")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and of the order of visits")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative difference")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to load or visit")
    parser.add_argument("--json", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    for name, least in (("batch_size", 1), ("threads", 1), ("rounds", 1), ("warmup", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not 0 < options.timeout < threading.TIMEOUT_MAX:
        parser.error("--timeout must be positive seconds")
    for file in options.files:
        if file.suffix not in RUNTIMES:
            parser.error(f"can measure .tflite and .onnx files, not {file}")
        if not file.is_file():
            parser.error(f"no such file: {file}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"no such folder: {options.json.parent}")
    return options


def write_json(report, path):
    """Write a report, whole or not at all."""
    temporary = path.with_name("." + path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def main():
    """Record, or check and time."""
    options = arguments()
    if options.record:
        of_record = options.threads, options.batch_size, options.seed, options.timeout
        for file in options.files:
            try:
                print(record_apart(file, *of_record))
            except Failed as error:
                sys.exit(f"{file}: {error}")
        return
    if options.together:
        of_all = options.threads, options.rounds, options.seed, options.timeout
        report = measure_together(options.files, *of_all)
        ran = sum(row["median"] is not None for row in report["rows"])
        print(f"{ran} of {len(options.files)} files timed")
        if options.json:
            write_json(report, options.json)
        return
    report = measure(
        options.files,
        options.threads,
        options.rounds,
        options.warmup,
        options.seed,
        options.tolerance,
        options.timeout,
    )
    show(report)
    if options.json:
        write_json(report, options.json)
    reasons = [f"{row['path']}: {row['reason']}" for row in report["rows"] if row["reason"]]
    if reasons:
        sys.exit("\n".join(reasons))


if __name__ == "__main__":
    main()
