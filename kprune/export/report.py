"""What an export did, as plain data and as a table."""

import dataclasses
import io
import math
from typing import Any

from kprune.export.integer_io import FileTensor
from kprune.formats.weights import StoredWeight
from kprune.report import tables
from kprune.runtimes.vela_tables import VelaEstimate
from kprune.runtimes.verification import OutputDifference
from kprune.targets import ethos_u
from kprune.targets.outlook import Outlook


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` or `export_onnx` wrote, and how it was verified. Prints as a table.

    Example:

    ```python
    report = kprune.export_onnx(model, "model.onnx")
    print(report)  # a table
    report.gzipped_bytes, report.max_rel_diff, report.weights[0].sparsity
    json.dumps(report.to_dict())
    ```

    Attributes:
        path: the file.
        format: `"tflite"` or `"onnx"`.
        quantize: how the file is quantized, or None.
        bytes: size on disk.
        gzipped_bytes: size after gzip, level 9: what a download or an app bundle takes.
        max_abs_diff: largest absolute difference between the file's outputs in its runtime and
            the Keras model's.
        max_rel_diff: the same relative to the largest magnitude of that output in Keras; the
            largest over all outputs.
        top1_agreement: share of samples with the same best class, the lowest over the outputs
            that hold class scores; None where none does.
        samples: how many samples the outputs were compared on.
        outputs: an `OutputDifference` for each output.
        weights: a `StoredWeight` for each weight of rank 2 or more, as stored in the file.
        seconds: wall time of the export: conversion, running, comparing.
        notes: sentences on what else to know.
        rewrites: what was rewritten for sparse kernels, in a copy of the model.
        outlooks: an `Outlook` for each target that the file is for, where a weight is at least 30%
            zero: whether it is faster there than dense, why, and what would be.
        beside: the other files that were written.
        io: of a `.tflite` file a `FileTensor` for each input and output: dtype, scale, zero point.
        arena_bytes: how much memory TensorFlow Lite Micro needs for it, measured on this machine;
            None for other targets.
        estimate: for an Ethos-U, Vela's `VelaEstimate` of the compiled file: not measured.
    """

    path: str
    format: str
    quantize: str | None
    bytes: int
    gzipped_bytes: int
    max_abs_diff: float
    max_rel_diff: float
    top1_agreement: float | None
    samples: int
    outputs: list[OutputDifference]
    weights: list[StoredWeight]
    seconds: float
    notes: list[str]
    rewrites: list[str] = dataclasses.field(default_factory=list)
    outlooks: list[Outlook] = dataclasses.field(default_factory=list)
    beside: list[str] = dataclasses.field(default_factory=list)
    io: list[FileTensor] = dataclasses.field(default_factory=list)
    arena_bytes: int | None = None
    estimate: VelaEstimate | None = None

    @property
    def targets(self) -> dict[str, float]:
        """{target: how many times faster than dense, estimated}, of the `outlooks`."""
        return {one.target: one.gain for one in self.outlooks}

    @property
    def sparsity(self) -> float | None:
        """Share of zeros among all the stored `weights`, as a fraction; None without any."""
        sizes = [math.prod(weight.shape) for weight in self.weights]
        zeros = sum(weight.sparsity * size for weight, size in zip(self.weights, sizes))
        return zeros / sum(sizes) if sizes else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "sparsity": self.sparsity,
            "targets": self.targets,
        }

    def __str__(self):
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100)
        console.print(self)
        return console.file.getvalue().rstrip()

    def __rich__(self):
        from rich.console import Group
        from rich.table import Table

        facts = Table(title=f"Exported {self.path}", show_header=False, title_justify="left")
        for name, value in self._facts():
            facts.add_row(name, value)
        weights = Table(title="Weights as stored in the file", title_justify="left")
        for name, justify in [
            ("weight", "left"),
            ("shape", "left"),
            ("dtype", "left"),
            ("encoding", "left"),
            ("sparsity", "right"),
        ]:
            weights.add_column(name, justify=justify)
        for weight in self.weights:
            shape = "x".join(map(str, weight.shape))
            sparsity = tables.percent(weight.sparsity)
            weights.add_row(weight.name, shape, weight.dtype, weight.encoding, sparsity)
        parts = [facts, *self._io(), *([weights] if self.weights else [])]
        return Group(*parts) if len(parts) > 1 else facts

    def _io(self):
        """The table of inputs and outputs, where some hold integers for real values."""
        from rich.table import Table

        if all(each.scale is None for each in self.io):
            return
        title = "Inputs and outputs\nreal value = (integer - zero point) * scale"
        table = Table(title=title, title_justify="left")
        for name in ("", "name", "shape", "dtype", "scale", "zero point"):
            table.add_column(name, justify="right" if name in ("scale", "zero point") else "left")
        for each in self.io:
            shape = "x".join("?" if size is None else str(size) for size in each.shape)
            scale = tables.MISSING if each.scale is None else f"{each.scale:.9g}"
            zero = tables.MISSING if each.zero_point is None else str(each.zero_point)
            table.add_row(f"{each.kind} {each.index}", each.name, shape, each.dtype, scale, zero)
        yield table

    def _facts(self):
        runtime = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}[self.format]
        yield "format", self.format + (f", {self.quantize}" if self.quantize else "")
        yield "size", f"{_readable(self.bytes)} ({_readable(self.gzipped_bytes)} gzipped)"
        yield (
            f"{runtime} against Keras",
            f"largest difference {self.max_abs_diff:.2g} (relative {self.max_rel_diff:.2g}) "
            f"over {self.samples} samples",
        )
        if self.top1_agreement is not None:
            yield "top-1 agreement", tables.percent(self.top1_agreement)
        if self.sparsity is not None:
            yield "sparsity", tables.percent(self.sparsity)
        if self.arena_bytes is not None:
            yield "arena", f"{_readable(self.arena_bytes)} of memory in TensorFlow Lite Micro"
        for path in self.beside:
            yield "and", path
        if self.estimate is not None:
            yield from ethos_u.rows_of(self.estimate)
        yield "time", f"{self.seconds:.1f} s"
        for change in self.rewrites:
            yield "rewritten", change
        for note in self.notes:
            yield "note", note
        for one in self.outlooks:
            yield f"on {one.target}", str(one)


def _readable(count):
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
