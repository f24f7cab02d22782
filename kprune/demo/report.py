"""What the demo measured, as a table and a picture."""

from dataclasses import asdict, dataclass
from pathlib import Path

from kprune.report import plots, tables
from kprune.report.tables import Printable
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime

FORMATS = {".keras": "Keras", ".tflite": LiteRT.name, ".onnx": OnnxRuntime.name}
STEMS = ("dense", "pruned", "optimized")


@dataclass
class DemoRow:
    """One file: what it scores and costs in its runtime.

    `smaller` and `faster` compare it with the dense file of the same format. `latency` is the
    median of one example, in seconds; `sparsity` is that of the weights as stored in the file.
    """

    file: str
    runtime: str
    accuracy: float
    sparsity: float
    bytes: int
    gzipped_bytes: int
    smaller: float
    latency: float
    faster: float


@dataclass(repr=False)
class DemoReport(Printable):
    """What the demo measured; prints as a table."""

    data: str
    train_examples: int
    test_examples: int
    sparsity: float
    epochs: int
    seed: int
    seconds: float
    rows: list[DemoRow]
    notes: list[str]
    machine: dict

    def to_dict(self):
        """Return everything as plain data, ready for JSON."""
        return asdict(self)

    def __rich__(self):
        rows = self.rows
        key = {"file": [row.file for row in rows]}
        quality = {
            "runtime": [row.runtime for row in rows],
            ">accuracy": [tables.percent(row.accuracy) for row in rows],
            ">sparsity": [tables.percent(row.sparsity) for row in rows],
            ">size": [tables.size(row.bytes) for row in rows],
            ">smaller": [tables.ratio(row.smaller) for row in rows],
        }
        cost = {
            ">gzipped": [tables.size(row.gzipped_bytes) for row in rows],
            ">latency": [tables.milliseconds(row.latency) for row in rows],
            ">faster": [tables.ratio(row.faster) for row in rows],
        }
        title = (
            f"A CNN on {self.data}, dense, pruned to {tables.percent(self.sparsity)}, and "
            f"optimized: accuracy on {self.test_examples:,} test images in each runtime"
        )
        return tables.Parts(key, (title, quality, []), ("Download and latency", cost, self.notes))

    def plot(self, path):
        """Draw accuracy, sizes and latency, dense against pruned, as bars."""
        rows = self.rows
        plots.bars(
            path,
            [row.file for row in rows],
            [
                ("accuracy, %", [100 * row.accuracy for row in rows]),
                ("size, MB", [row.bytes / 1e6 for row in rows]),
                ("gzipped, MB", [row.gzipped_bytes / 1e6 for row in rows]),
                ("latency, ms", [1000 * row.latency for row in rows]),
            ],
            title=f"{self.data}: dense, pruned to {tables.percent(self.sparsity)}, and optimized",
        )


def table_rows(measured, accuracies):
    """Yield a `DemoRow` for each file of a benchmark, the dense one first."""
    dense = measured.rows[0]
    for row, accuracy in zip(measured, accuracies):
        path = Path(row.path)
        yield DemoRow(
            file=path.name,
            runtime=FORMATS[path.suffix],
            accuracy=accuracy,
            sparsity=1 - row.nonzeros / row.parameters,
            bytes=row.bytes,
            gzipped_bytes=row.gzipped_bytes,
            smaller=dense.bytes / row.bytes,
            latency=row.median,
            faster=row.speedup,
        )


def explain(rows, found):
    """Say what the figures show, and why: what runtimes do with zeros, and what else there is.

    Args:
        rows: `DemoRow`s.
        found: {name of an optimized file: what is left in it, as a `Step` says it}.
    """
    reasons = {
        ".keras": "Keras stores every zero and multiplies by it",
        ".tflite": "LiteRT has a sparse kernel for Dense layers pruned in blocks of (4, 1), and "
        "none for 3x3 convolutions; the file holds only what is not zero",
        ".onnx": "ONNX Runtime stores every zero and has no kernels for sparse weights",
    }
    notes = []
    for row in rows:
        stem, suffix = Path(row.file).stem, Path(row.file).suffix
        if stem == "dense":
            continue
        # Below this, a shared machine's noise is as large.
        smaller = f"{row.smaller:.1f}x smaller" if row.smaller > 1.1 else "not smaller"
        faster = f"{row.faster:.1f}x faster" if row.faster > 1.1 else "not faster"
        reason = reasons[suffix]
        if suffix == ".tflite" and row.smaller <= 1.1:
            reason = "Its weights are stored dense, zeros and all"
        if stem == "optimized":
            reason = f"kprune.optimize found: {found[row.file]}"
        notes.append(f"{row.file}: {smaller}, {faster}. {reason}.")
    return notes
