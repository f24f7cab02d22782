"""What `kprune.sensitivity_scan` takes beside the evaluations that it makes.

    python scripts/benchmark_scan.py --rounds 5 --json out.json

A network of ten layers is scanned at five sparsities, 50 evaluations and that of the dense model,
and then evaluated 51 times by `model.evaluate`, in turns. The ratio is that of the CPU times of the
process in the same round, of which the median is shown. Images and weights are random.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _progress import progress
from _start import start

LAYERS, LEVELS = 10, (0.5, 0.7, 0.8, 0.9, 0.95)


def build():
    """Return a network of ten layers with kernels, compiled."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((32, 32, 3))]
    for filters in (16, 16, 32, 32, 64, 64, 64, 64):
        strides = 2 if filters > 16 and len(layers) % 2 else 1
        layers.append(keras.layers.Conv2D(filters, 3, strides, padding="same", activation="relu"))
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(64, activation="relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def measure(rounds, examples, advance):
    """Return the CPU seconds of scans, and of as many evaluations, a list of pairs."""
    import kprune

    model = build()
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 32, 32, 3)).astype("float32")
    y = random.integers(0, 10, examples)
    model.evaluate(x, y, verbose=0)
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        report = kprune.sensitivity_scan(model, (x, y), sparsities=LEVELS)
        scan = time.process_time() - begin
        assert len(report.values) == LAYERS
        begin = time.process_time()
        for _ in range(LAYERS * len(LEVELS) + 1):
            model.evaluate(x, y, verbose=0)
        found.append((scan, time.process_time() - begin))
        advance()
    return found


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    examples: Annotated[int, typer.Option(min=1, help="Images of each evaluation.")] = 1000,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Compare a scan with as many evaluations."""
    start()
    from kprune.report.files import write_json

    with progress("Scanning", rounds) as advance:
        found = measure(rounds, examples, advance)
    ratio = statistics.median(scan / evaluations for scan, evaluations in found)
    scan, evaluations = (statistics.median(times) for times in zip(*found))
    print(
        f"{LAYERS} layers x {len(LEVELS)} levels, {examples:,} images: scan {scan:.2f} s, "
        f"as many evaluations {evaluations:.2f} s of CPU time; ratio {ratio:.3f}, "
        f"median of {rounds}"
    )
    if json:
        rows = [{"scan": a, "evaluations": b} for a, b in found]
        write_json(json, {"layers": LAYERS, "levels": LEVELS, "ratio": ratio, "rounds": rows})


if __name__ == "__main__":
    typer.run(main)
