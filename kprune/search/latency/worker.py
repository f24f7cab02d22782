"""Many small files in their runtime, in one process that imports nothing of kprune.

Protocol, one JSON a line. The first argument says `{"suffix": ..., "threads": ..., "runtimes":
folder, "folder": for the runtime's own files, "empty": a file of next to nothing}`. For each
`{"files": [...], "rounds": n, "seconds": s}` the worker visits every file in each of n shuffled
rounds, for about s seconds a visit, and answers with a list: for each file the seconds of its
operators, one number a visit, or null where it does not run.

In LiteRT that is the time of an invocation. ONNX Runtime brings a convolution's input into a
layout of its own and its output back, which a network does once for all of them: what its profiler
says of that is subtracted.
"""

import importlib.util
import json
import os
import random
import statistics
import sys
import time

_LAYOUT = ("ReorderInput", "ReorderOutput")
_MOST_RUNS = 400


def _module(folder, name):
    path = os.path.join(folder, f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"kprune_runtimes_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _filled(inputs):
    """Arrays for the inputs of a file: noise, and zeros where integers are taken."""
    import numpy as np

    rng, feeds = np.random.default_rng(0), {}
    for name, (dims, dtype, _) in inputs.items():
        dtype = np.dtype(dtype)
        if np.issubdtype(dtype, np.floating):
            feeds[name] = rng.standard_normal(dims).astype(dtype)
        else:
            feeds[name] = np.zeros(dims, dtype)
    return feeds


class LiteRT:
    """A `.tflite` file, timed by the clock."""

    def __init__(self, path, config):
        self._file = _module(config["runtimes"], "litert").LiteRT(path, config["threads"])
        self._file(_filled(self._file.inputs))
        self.run, self.visits = self._file.invoke, []

    def visited(self, times):
        """Remember a visit's times of runs."""
        self.visits.append(statistics.median(times))

    def result(self):
        """The seconds of each visit."""
        return self.visits


class OnnxRuntime:
    """An `.onnx` file, timed by the clock, less what ONNX Runtime's profiler says of layouts."""

    def __init__(self, path, config):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = config["threads"], 1
        options.log_severity_level = 4
        self._make = lambda: onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._session = self._make()
        runtimes = _module(config["runtimes"], "onnxruntime")
        inputs = {node.name: runtimes.described(node) for node in self._session.get_inputs()}
        feeds = _filled(inputs)
        self.run = lambda: self._session.run(None, feeds)
        self.run()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(config["folder"], os.path.basename(path))
        self._feeds, self._overhead, self.visits = feeds, config.get("event", 0.0), []

    def profiled(self, runs=30):
        """Return `{(whether it is for a layout, event): seconds of each run}`."""
        session = self._make()  # The options ask for a profile by now.
        for _ in range(runs):
            session.run(None, self._feeds)
        path = session.end_profiling()
        with open(path) as file:
            events = json.load(file)
        os.unlink(path)
        found = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                kind = event["args"].get("op_name") in _LAYOUT, event["name"]
                found.setdefault(kind, []).append(event["dur"] * 1e-6)
        return found

    def visited(self, times):
        """Remember a visit's times of runs."""
        self.visits.append(statistics.median(times))

    def result(self):
        """The seconds of each visit."""
        layout = sum(
            max(0.0, _trimmed(times) - self._overhead)
            for (is_layout, _), times in self.profiled().items()
            if is_layout
        )
        return [max(0.0, visit - layout) for visit in self.visits]


def _trimmed(times):
    """The mean of whole microseconds, which knows more than their median, without the longest."""
    best = sorted(times)
    return statistics.fmean(best[: max(1, round(0.8 * len(best)))])


KINDS = {".tflite": LiteRT, ".onnx": OnnxRuntime}


def _loaded(path, config):
    try:
        return KINDS[config["suffix"]](path, config)
    except Exception:  # Each runtime has its own for a file that it cannot run.
        return None


def _visit(file, runs):
    file.run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        file.run()
        times.append(time.perf_counter() - start)
    return times


def measured(paths, rounds, seconds, config):
    """Visit files in shuffled rounds; return what each visit of each took."""
    files = [_loaded(path, config) for path in paths]
    numbers = {}
    for i, file in enumerate(files):
        if file is not None:
            once = statistics.median(_visit(file, 3)) + 1e-7
            numbers[i] = max(3, min(_MOST_RUNS, round(seconds / once)))
    order = random.Random(0)
    for _ in range(rounds):
        for i in order.sample(sorted(numbers), len(numbers)):
            files[i].visited(_visit(files[i], numbers[i]))
    return [None if file is None else file.result() for file in files]


def main():
    """Time files as told until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    if config["suffix"] == ".onnx":  # What the profiler adds to an operator that is nothing.
        events = OnnxRuntime(config["empty"], config).profiled(200)
        config["event"] = min(map(_trimmed, events.values()), default=0.0)

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    for line in sys.stdin:
        job = json.loads(line)
        answer(measured(job["files"], job["rounds"], job["seconds"], config))


if __name__ == "__main__":
    main()
