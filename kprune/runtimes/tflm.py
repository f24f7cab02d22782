"""TensorFlow Lite Micro, the runtime of `.tflite` files on microcontrollers.

Its interpreter ends the process where a file is too much for it, and may not come back: `run_apart`
runs a file in a child process. This file is the child's program, too, so it imports nothing of
kprune at its head.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np

SECONDS = 300.0  # that loading a file, or running it once, may take
_LARGEST_ARENA = 2**31 - 1
_ALIGNED = 16  # bytes, of what the arena holds
_MISSING = re.compile(r"missing: (\d+)")
_TOO_SMALL = re.compile(r"missing: \d+|Arena size is too small|Too many buffers")


class TFLM:
    """A `.tflite` file in TensorFlow Lite Micro's interpreter, with its portable kernels.

    Example:

    ```python
    file = TFLM("model.tflite")
    file({"image": x})["classes"]
    file.arena_bytes
    ```

    Args:
        file: its path, or its bytes.
        threads: is ignored: there is one.
        arena: int, bytes of the arena; by default as many as it takes.

    Attributes:
        inputs: {name: (dims, dtype, quantized)} of each input, as of `LiteRT`.

    Raises:
        RuntimeError: the file does not run; the message is what the interpreter printed.
    """

    name = "TensorFlow Lite Micro"

    def __init__(self, file, threads=None, arena=None):
        from tflite_micro import runtime

        self._blob = file if isinstance(file, bytes) else Path(file).read_bytes()
        self.version = version("tflite-micro")
        self._interpreter = self._in_any_arena() if arena is None else self._in_arena(arena)
        self._sources, self._targets = _names(runtime.convert_bytearray_to_object(self._blob))
        self.inputs = {}
        for name, at in self._sources.items():
            details = self._interpreter.get_input_details(at)
            scales = details["quantization_parameters"]["scales"]
            dims = [int(size) for size in details["shape"]]
            self.inputs[name] = dims, details["dtype"], bool(scales.size)

    def _in_arena(self, size):
        from tflite_micro import runtime

        try:
            with _printed() as printed:
                return runtime.Interpreter.from_bytes(self._blob, arena_size=size)
        except RuntimeError as error:
            raise RuntimeError(printed.text.strip() or str(error)) from error

    def _in_any_arena(self):
        size = max(2**20, 2 * len(self._blob))
        while True:
            try:
                return self._in_arena(size)
            except RuntimeError as error:
                if not _TOO_SMALL.search(str(error)) or 2 * size > _LARGEST_ARENA:
                    raise
            size *= 2

    @property
    def arena_bytes(self):
        """How large the arena must be, on this machine: the smallest that it can be loaded in."""
        with _printed() as printed:
            self._interpreter.print_allocations()
        size = int(re.search(r"Arena allocation total (\d+)", printed.text)[1])
        # What kernels need for a moment while they are prepared is not among it.
        if self._missing(size) == 0:
            return size
        low, step = size, self._missing(size)
        while self._missing(low + step):
            low, step = low + step, 2 * step
        high = low + step
        while high - low > _ALIGNED:
            middle = low + (high - low) // (2 * _ALIGNED) * _ALIGNED
            low, high = (middle, high) if self._missing(middle) else (low, middle)
        return high

    def _missing(self, size):
        """How many bytes an arena lacks, by what the interpreter says of it; 0 where it will do."""
        try:
            self._in_arena(size)
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            return max(1, -(-int(missing[1]) // _ALIGNED) if missing else 1) * _ALIGNED
        return 0

    def prepare(self, feeds):
        """Take the inputs of the runs that follow.

        Args:
            feeds: {name: array}. What the file has no input for is ignored.
        """
        self._feeds = {name: feeds[name] for name in self._sources}

    def run(self):
        """Run once: inputs copied in, outputs copied out; returns {name: array}."""
        for name, at in self._sources.items():
            self._interpreter.set_input(np.ascontiguousarray(self._feeds[name]), at)
        self.invoke()
        return {name: np.array(self._interpreter.get_output(at)) for name, at in self._targets}

    def invoke(self):
        """Run once more on the inputs of the last run; nothing is copied in or out."""
        try:
            with _printed() as printed:
                self._interpreter.invoke()
        except RuntimeError as error:
            raise RuntimeError(printed.text.strip() or str(error)) from error

    def __call__(self, feeds):
        """Prepare and run."""
        self.prepare(feeds)
        return self.run()


def _names(model):
    """Return {name: position} of the inputs, and [(name, position)] of the outputs.

    Args:
        model: the file as a `ModelT`.
    """
    graph = model.subgraphs[0]
    said = {}
    for signature in model.signatureDefs or []:
        for entry in [*signature.inputs, *signature.outputs]:
            said.setdefault(entry.tensorIndex, []).append(entry.name.decode())
    # A tensor may have several names, as where an output is given twice.
    sources, targets = (
        [
            (name, at)
            for at, index in enumerate(indices)
            for name in said.get(index) or [graph.tensors[index].name.decode()]
        ]
        for indices in (graph.inputs, graph.outputs)
    )
    return dict(sources), targets


class _Printed:
    text = ""


@contextlib.contextmanager
def _printed():
    """Capture what the interpreter prints to the descriptor of standard error."""
    printed = _Printed()
    with tempfile.TemporaryFile() as log:
        original = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield printed
        finally:
            os.dup2(original, 2)
            os.close(original)
            log.seek(0)
            printed.text = log.read().decode(errors="replace")


@dataclasses.dataclass
class Runs:
    """What a file gave in a process of its own.

    Attributes:
        outputs: a list of the outputs of each run, in the order asked for.
        arena_bytes: `TFLM.arena_bytes`.
        version: of the package.
    """

    outputs: list
    arena_bytes: int
    version: str


def run_apart(blob, feeds, outputs, seconds=SECONDS):
    """Run a file in a child process, with a time limit.

    Args:
        blob: its bytes.
        feeds: a list of {name: array}, one for each run; it may be empty.
        outputs: the names of the outputs.
        seconds: float, how long loading it, and each run, may take.

    Returns:
        A `Runs`.

    Raises:
        ExportError: it does not run there, or not in time.
    """
    from kprune._system import children, files
    from kprune._system.errors import ExportError
    from kprune._system.workplace import workplace

    with workplace() as folder, open(folder / "log", "w+b") as log:
        files.write(folder / "model.tflite", blob, folder)
        names = list(feeds[0]) if feeds else []
        np.savez(folder / "inputs.npz", *(np.stack([f[name] for f in feeds]) for name in names))
        job = {"runs": len(feeds), "inputs": names, "outputs": outputs}
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, *children.python_flags(), __file__, str(folder)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
        with children.child(command, **streams, text=True) as process:
            answers = [_answer(process, seconds) for _ in range(len(feeds) + 1)]
            late = "late" in answers
            code = None if late else process.wait()
        failed = next((a["error"] for a in answers if isinstance(a, dict) and "error" in a), None)
        if late or failed or None in answers:
            log.seek(0)
            printed = log.read().decode(errors="replace").strip()
            raise ExportError(_failure(failed, code, seconds, printed, len(feeds)))
        arrays = []
        if feeds:
            with np.load(folder / "outputs.npz") as found:
                arrays = [list(run) for run in zip(*(found[name] for name in found.files))]
        return Runs(arrays, answers[0]["arena_bytes"], answers[0]["version"])


def _answer(process, seconds):
    """Read a line of the child; `"late"` where there is none in time, None where it has ended."""
    late = threading.Event()
    timer = threading.Timer(seconds, lambda: (late.set(), process.terminate()))
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if late.is_set():
        return "late"
    return json.loads(line) if line.endswith("\n") else None


def _failure(failed, code, seconds, printed, runs):
    if failed:
        why = f"It says:\n{failed}"
    elif code is None:
        why = (
            f"Loading it, or one of its {runs} runs, took longer than {seconds:g} seconds: it "
            "hangs, or is too large for a microcontroller by far."
        )
    else:
        why = f"It ended its process (exit status {code}). The last it printed:\n{printed[-2000:]}"
    return "The file runs in LiteRT, but not in TensorFlow Lite Micro, so it was not kept. " + why


def main(folder):
    """Run the file in `folder` as its job says; answer with a line once loaded, and after runs."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**facts):
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    job = json.loads((folder / "job.json").read_text())
    try:
        file = TFLM(folder / "model.tflite")
        answer(arena_bytes=file.arena_bytes, version=file.version)
        with np.load(folder / "inputs.npz") as found:
            arrays = [found[name] for name in found.files]
        runs = []
        for i in range(job["runs"]):
            found = file(dict(zip(job["inputs"], (array[i] for array in arrays))))
            runs.append([found[name] for name in job["outputs"]])
            if i + 1 == job["runs"]:
                np.savez(folder / "outputs.npz", *map(np.stack, zip(*runs)))
            answer()
    except RuntimeError as error:
        answer(error=str(error)[-2000:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
