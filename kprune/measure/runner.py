"""One file in a runtime, as the process sees it that asks for times: see `worker`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress

import keras

from kprune._system.children import child, python_flags
from kprune.measure import worker

# A visit to a file runs it for about this long, so that short latencies are not all clock noise.
_VISIT_SECONDS = 0.02
_MAX_RUNS_A_VISIT = 200
# The extra of kprune with a package, where that is not `export`.
_EXTRAS = {"openvino": "openvino"}


def check_timeout(timeout):
    """Raise ValueError unless `timeout` is a number of seconds."""
    real = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not real or not 0 < timeout < threading.TIMEOUT_MAX:
        raise ValueError(f"`timeout` must be positive seconds. Received: timeout={timeout!r}")


class Runner:
    """The process that runs one file, a context manager; see `worker` for its configuration."""

    def __init__(self, path, config, timeout):
        self.path, self.config, self.timeout = path, config, timeout
        self._elsewhere = bool(config.get("like"))  # not in the runtime that the file is made for

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
                package = answer["missing"]
                raise ImportError(
                    f"{self.path} needs {package} to run. Install it with: "
                    f'pip install "kprune[{_EXTRAS.get(package, "export")}]"'
                )
            if "error" in answer:
                where = f"measured in {self.config['runtime']}" if self._elsewhere else "run"
                raise ValueError(f"{self.path} could not be {where}: {answer['error'].strip()}")
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
