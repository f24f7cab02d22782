"""Kill a search at random moments and resume it: does it end as one that was not killed?

    python scripts/kill_optimize.py --kills 10

A process that runs `kprune.optimize` is killed with SIGKILL after a random time and started again,
until it has been killed so often; then it may end. Compared with a search that was not killed are
the steps of all rounds, and their metrics and sizes; no round may have been trained more often than
it was cut short. Times are replaced by the files' sizes, as those of two runs are never the same.
Exit status 1 if anything differs, or if files are left that belong to no round.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

ROUNDS = 8


def search(folder):
    """Run, or go on with, the search in a folder; a line is added to `fits` for each training."""
    from _start import start

    start()
    import keras

    import kprune
    from kprune.search import stopwatch

    def by_size(self, dense, file):
        sizes = [path.stat().st_size for path in (dense, file)]
        return sizes[1] / 1e9, sizes[0] / sizes[1]

    stopwatch.Stopwatch.compare = by_size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8, 8, 1)).astype("float32")
    y = (x[:, :4].mean((1, 2, 3)) > x[:, 4:].mean((1, 2, 3))).astype("int32")
    path = folder / "trained.keras"
    if path.is_file():
        model = keras.models.load_model(path)
    else:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        body = [layers.Conv2D(32, 3, activation="relu") for _ in range(2)]
        head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(2, "softmax")]
        model = keras.Sequential([keras.Input((8, 8, 1)), *body, *head])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, epochs=5, verbose=0)
        model.save(folder / "saving.keras")
        os.replace(folder / "saving.keras", path)

    def fit(model, callbacks):
        with open(folder / "fits", "a") as lines:
            lines.write("fit\n")
        model.fit(x[:400], y[:400], epochs=60, verbose=0, callbacks=callbacks)

    def evaluate(model):
        return model.evaluate(x[400:], y[400:], verbose=0, return_dict=True)["accuracy"]

    kprune.optimize(
        model, "litert-x86", fit, evaluate, 0.1, data=x[:100], rounds=ROUNDS,
        out=folder / "out", verbose=False,
    )  # fmt: skip


def facts(folder):
    """What two searches must agree in."""
    points = json.loads((folder / "out" / "result.json").read_text())["points"]
    keys = ("step", "metric", "parameters", "gzipped_bytes", "reason")
    return [{key: point[key] for key in keys} for point in points]


def main(
    kills: Annotated[int, typer.Option(min=0)] = 10,
    seed: Annotated[int, typer.Option()] = 0,
    longest: Annotated[float, typer.Option(help="Seconds until a process is killed.")] = 24.0,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
):
    """Run the two searches and compare them."""
    if child is not None:
        return search(child)
    chance, killed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as base:
        folders = [Path(base) / name for name in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
        run = [sys.executable, __file__, "--child"]
        subprocess.run([*run, str(folders[0])], check=True)
        while True:
            process = subprocess.Popen([*run, str(folders[1])], start_new_session=True)
            if killed == kills:
                break
            time.sleep(chance.uniform(8, longest))
            if process.poll() is not None:  # It was too quick for so many kills.
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        if process.wait():
            raise SystemExit(f"the search ended with status {process.returncode}")
        whole, resumed = map(facts, folders)
        for number, (a, b) in enumerate(zip(whole, resumed)):
            print(number, "the same" if a == b else f"{a}\n  {b}")
        fits = [len((folder / "fits").read_text().split()) for folder in folders]
        names = {p.name for p in (folders[1] / "out").iterdir()}
        left = names - {p.name for p in (folders[0] / "out").iterdir()}
        print(f"{killed} kills; trainings {fits[0]} and {fits[1]}; left over: {sorted(left)}")
        if whole != resumed or fits[1] > fits[0] + killed or left:
            raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
