"""Kill exports at random moments: does a process, a folder or a file stay behind?

    python scripts/kill_exports.py --kills 20
    KERAS_BACKEND=jax python scripts/kill_exports.py --kills 20 --json out.json

A process that exports a model again and again (on JAX and torch with a child process on
TensorFlow) is killed with SIGKILL at a random moment of an export. Counted are the processes that
still run two seconds later, and what is in the folders for temporary files and for results when
a further export has run. Exit status 1 if there is any. Needs Linux, to find processes.
"""

import getpass
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

MARK = "KPRUNE_KILL_EXPORTS"  # in the environment of the processes that an export starts
LIBRARIES = (".ses", f"torchinductor_{getpass.getuser()}")  # of ONNX Runtime and torch: they stay
PATIENCE = 600.0  # seconds until a process that says nothing is given up
GRACE = 2.0  # seconds that processes may take to end


def export(folder, times):
    """Export a model in both formats to `folder`; print a line when one export begins or ends."""
    from _start import start

    start()
    import keras
    import numpy as np

    import kprune

    layers = keras.layers
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(64, activation="relu"), layers.Dense(4)]
    )
    kernel = model.layers[0].kernel
    kernel.assign(np.where(rng.random(kernel.shape) < 0.8, 0, kernel))
    x = rng.normal(size=(64, 16)).astype("float32")
    print("ready", flush=True)
    for _ in range(times):
        kprune.export_tflite(model, folder / "model.tflite")
        kprune.export_onnx(model, folder / "int8.onnx", quantize="int8", representative_data=x)
        print("done", flush=True)


class Exporting:
    """The process that exports, with temporary and result folders of its own."""

    def __init__(self, folder):
        self.temporary, self.results = folder / "temporary", folder / "results"
        self.temporary.mkdir()
        self.results.mkdir()
        self.environment = {**os.environ, "TMPDIR": str(self.temporary), MARK: str(folder)}
        self.mark = f"{MARK}={folder}".encode()

    def start(self, times):
        """Start it, and return when it is about to export."""
        command = [sys.executable, __file__, "--work", str(self.results), str(times)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment)
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("The process that exports has ended before it began.")
        return process

    def seconds(self):
        """Export once; return how long it took."""
        process = self.start(1)
        begin = time.perf_counter()
        process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError("The process that exports has failed.")
        return time.perf_counter() - begin

    def alive(self):
        """Return the ids of the processes that an export has started, or is."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def kill(self, delay):
        """Start it, kill it after `delay` seconds; return how long what it started has lived on.

        Returns:
            Seconds, and how many processes there were.
        """
        process = self.start(1000)
        time.sleep(delay)
        started = len(self.alive())
        process.kill()
        process.communicate()
        begin = time.perf_counter()
        while self.alive() and time.perf_counter() - begin < PATIENCE:
            time.sleep(0.02)
        return time.perf_counter() - begin, started

    def files(self):
        """Return the names of what is in the two folders."""
        folders = self.results, self.temporary
        return {path.name for folder in folders for path in folder.iterdir()}


def measure(kills, seed, say=lambda text: None, whole=None):
    """Kill so many exports; return what was found, as plain data.

    Args:
        kills: int.
        seed: of the moments.
        say: called with a line after each.
        whole: seconds, the latest moment of an export; measured by default.
    """
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        exporting = Exporting(Path(folder).resolve())
        usual = {"model.tflite", "int8.onnx", *LIBRARIES}
        if whole is None:
            whole = exporting.seconds()
        say(f"one export takes {whole:.1f} s")
        rounds = []
        for number in range(kills):
            delay = moments.uniform(0, whole)
            seconds, started = exporting.kill(delay)
            rounds.append(
                {
                    "killed_after": delay,
                    "processes": started,
                    "lived_on": seconds,
                    "left": sorted(exporting.files() - usual),
                }
            )
            say(f"{number + 1}: {rounds[-1]}")
        exporting.seconds()
        return {
            "kills": kills,
            "orphans": sum(each["lived_on"] > GRACE for each in rounds),
            "longest": max(each["lived_on"] for each in rounds),
            "left": sorted(exporting.files() - usual),
            "rounds": rounds,
        }


def main(
    kills: Annotated[int, typer.Option(min=1, help="How many exports to kill.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write a JSON here.")] = None,
):
    """Kill exports at random moments, and count what stays behind."""
    if not Path("/proc/self/environ").exists():
        sys.exit("Processes are found in /proc, which this system has not.")
    found = measure(kills, seed, lambda text: print(text, file=sys.stderr, flush=True))
    print(
        f"{found['kills']} kills: {found['orphans']} orphans after {GRACE:g} s (the last ended "
        f"after {found['longest']:.2f} s); {len(found['left'])} files or folders left after the "
        f"next run {found['left'] or ''}"
    )
    if json:
        from kprune.report.files import write_json

        write_json(json, found)
    sys.exit(bool(found["orphans"] or found["left"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        export(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        typer.run(main)
