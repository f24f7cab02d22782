"""Run scripts on data in which a class can be seen."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script, *arguments):
    """Run a script to its end; return the process, with what it printed."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def fake_mnist(folder, name="mnist"):
    """Images whose class can be seen: a bright bar at the class's place."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 12_000), ("test", 200)):
        labels = rng.integers(0, 10, size).astype("uint8")
        images = rng.integers(0, 60, (size, 28, 28)).astype("uint8")
        for i, label in enumerate(labels):
            images[i, 2 * label : 2 * label + 3] += 150
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / f"{name}.npz", **arrays)


def fake_reviews(folder):
    """Reviews whose class can be seen: it is that of the characters."""
    rng = np.random.default_rng(0)
    arrays = {"vocabulary": np.array([chr(0x4E00 + i) for i in range(58)])}
    for part, size in (("train", 1000), ("test", 200)):
        labels = rng.integers(0, 2, size)
        characters = rng.integers(2, 30, (size, 96)) + 30 * labels[:, None]
        arrays |= {f"x_{part}": characters.astype("uint16"), f"y_{part}": labels}
    np.savez(folder / "review_sentiment.npz", **arrays)
