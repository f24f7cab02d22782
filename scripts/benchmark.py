"""Latency and size of model files, each in its real runtime: `kprune benchmark` as a script.

    python scripts/benchmark.py dense.keras dense.tflite pruned.tflite pruned.onnx \
        --threads 2 --rounds 50 --json out.json --plot out.png
    python scripts/benchmark.py dense.tflite pruned.tflite --compare raspberry.json

With `--compare`, what `benchmark_device.py` or `benchmark_web.py` wrote with `--json`, or this
script on another machine, is shown beside what is measured here.
"""

import typer
from _start import start

start()

from kprune.cli import benchmark  # noqa: E402

if __name__ == "__main__":
    typer.run(benchmark)
