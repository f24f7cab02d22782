"""Latency and size of model files, each in its real runtime: `kprune benchmark` as a script.

    python scripts/benchmark.py dense.keras dense.tflite pruned.tflite pruned.onnx \
        --threads 2 --rounds 50 --json out.json --plot out.png
"""

import typer

from kprune.cli import benchmark

if __name__ == "__main__":
    typer.run(benchmark)
