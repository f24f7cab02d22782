"""`check`: which of a model's zeros a target can use, layer by layer, and why not."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras

from kprune._system.type_aliases import FilePath, InputShape
from kprune.formats.onnx.constants import onnx_weights
from kprune.formats.tflite.sparsity import BLOCK
from kprune.graphs.load import as_model
from kprune.graphs.sizes import in_words, known_sizes
from kprune.graphs.walk import graph_of
from kprune.report import tables
from kprune.runtimes import readers
from kprune.targets import xnnpack
from kprune.targets.from_keras import read
from kprune.targets.from_tflite import read_tflite
from kprune.targets.kernels import unfit
from kprune.targets.rewrites import rewrite
from kprune.targets.target import NEEDED_PERCENT, Target, get_target

PRUNE_FURTHER, PRUNE_IN_BLOCKS = "prune them further", "prune it with kprune.Block((4, 1))"
DENSE, FASTER, SMALLER = "dense", "sparse and faster", "sparse and only smaller"
SLOWER, WRONG, FAILS = "sparse and slower", "computes wrong outputs", "will not run"
_BROKEN = {xnnpack.WRONG: WRONG, xnnpack.FAILS: FAILS}

# Times relative to those of a dense 1x1 convolution with as many multiply-adds, from MobileNetV1 in
# LiteRT.js: dense 29 ms, with 80% zeros 9.3 ms, with 90% 6.8 ms.
_DEPTHWISE_TIME = 3
_SPARSE_TIME = 0.05


@dataclasses.dataclass(frozen=True)
class LayerVerdict:
    """What becomes of one layer on a target.

    Attributes:
        name: of the layer (in a file: as far as its tensors' names tell).
        type: its class or operator.
        sparsity: share of zeros in its kernel.
        verdict: `"dense"`, `"sparse and faster"`, `"sparse and only smaller"`,
            `"sparse and slower"`, `"computes wrong outputs"`, `"will not run"` or `"left to the
            processor"`.
        reason: why.
        advice: what to do about it; may be empty.
    """

    name: str
    type: str
    sparsity: float
    verdict: str
    reason: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class CheckReport(tables.Printable):
    """What a target can make of a model's zeros. Prints as a table.

    Example:

    ```python
    report = kprune.check("model.tflite", "litert-wasm")
    print(report)
    assert report.ok, [layer.reason for layer in report.layers]
    ```

    Attributes:
        model: the model's name or the file's path.
        target: the target's name.
        layers: a `LayerVerdict` for each layer with a kernel, in order; before them, for inputs
            that the target does not take.
        estimated_gain: how many times faster than dense, roughly, from multiply-adds; of a file
            for an Ethos-U as Vela estimates it, and None for a Keras model.
        notes: sentences on the model as a whole.
    """

    model: str
    target: str
    layers: list[LayerVerdict]
    estimated_gain: float | None
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether the model runs on the target, and computes what it should."""
        return not any(layer.verdict in (WRONG, FAILS) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {**dataclasses.asdict(self), "ok": self.ok}

    def __rich__(self):
        rows = []
        for layer in self.layers:
            why = layer.reason + (f"; {layer.advice}" if layer.advice else "")
            rows.append(
                (layer.name, layer.type, tables.percent(layer.sparsity), layer.verdict, why)
            )
        return tables.table(
            ["layer", "class", ">sparsity", "verdict", "why, and what to do"],
            rows,
            title=f"{self.model} on {self.target}: "
            + ("" if self.ok else "NOT FIT FOR IT, ")
            + self._speed(),
            notes=self.notes,
        )

    def _speed(self):
        if self.estimated_gain is None:
            return "layer by layer"
        return f"about {self.estimated_gain:.1f}x as fast as dense (estimated)"


def check(
    model_or_file: keras.Model | FilePath,
    target: Target | str,
    input_shape: InputShape | None = None,
) -> CheckReport:
    """Say layer by layer what a target can make of a model's zeros, and what to do.

    A Keras model is judged as `export_tflite` would write it, with its rewrites; a `.tflite` file
    as it is. Nothing is run; for an Ethos-U, Vela compiles the file, and estimates it.

    Example:

    ```python
    print(kprune.check(model, "litert-arm64"))
    print(kprune.check("model.tflite", "litert-wasm"))
    print(kprune.check("int8.tflite", "ethos-u55-128"))
    ```

    Args:
        model_or_file: a built functional or Sequential Keras model; the path of a `.keras`,
            `.tflite` or (for `"onnxruntime"` and `"openvino"`) `.onnx` file. Of a file, operators
            and types that the runtime lacks are named; of a model, its export names them.
        target: `"litert-arm64"`, `"litert-x86"`, `"litert-wasm"`, `"onnxruntime"`, `"openvino"`,
            `"tflm"`, `"ethos-u55-128"` (and u55-32, -64, -256; u65-256, -512; u85-128, -256, -512,
            -1024, -2048), or a `Target`.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            sizes that a Keras model which leaves them open is judged at; by default as in
            `kprune.flops`, and a note says which.

    Returns:
        A `CheckReport`.

    Raises:
        ValueError: an unknown target; a damaged file; a subclassed model; a file that the target
            does not run; sizes that do not fit the model, or given with a `.tflite` or `.onnx`
            file, which has its own.
        TypeError: no model and no path.
        OSError: the file cannot be read.
        ImportError: Vela is not installed, which estimates files for an Ethos-U.
    """
    from kprune.targets import ethos_u  # It makes the reports of this module.

    target = get_target(target)
    if isinstance(model_or_file, (str, os.PathLike)) and not str(model_or_file).endswith(".keras"):
        if input_shape is not None:
            raise ValueError(
                "`input_shape` is for Keras models; a file has sizes of its own. Received: "
                f"input_shape={input_shape}, with '{model_or_file}'"
            )
        return _check_file(str(model_or_file), target)
    model = as_model(model_or_file)
    sizes = None if graph_of(model) is None else known_sizes(model, input_shape)
    changed, done = (model, [])
    if target.format != "onnx":
        changed, done = rewrite(model, target, input_shape=sizes)
    notes = [f"the export rewrites {change}" for change in done]
    if target.compressed and graph_of(model) is not None:
        return ethos_u.check_model(model, target, sizes, notes)
    graph = read(changed, input_shape=sizes)
    if in_words(graph_of(model).inputs):
        notes.append(f"judged at these sizes, which the model leaves open: {sizes}")
    return check_graph(model.name, graph, target, notes)


def _check_file(path, target):
    suffix = os.path.splitext(path)[1]
    if suffix not in (".tflite", ".onnx"):
        raise ValueError(
            f"Give a Keras model, or a .keras, .tflite or .onnx file. Received: '{path}'"
        )
    if suffix[1:] not in target.formats:
        runs = " and ".join(f".{each}" for each in target.formats)
        raise ValueError(f"The target '{target.name}' runs {runs} files. Received: '{path}'")
    if target.compressed:
        from kprune.targets import ethos_u  # It makes the reports of this module.

        return ethos_u.check_file(path, target)
    if suffix == ".onnx":
        why = target.no_kernels
        rows = [
            LayerVerdict(name, "initializer", zeros / size if size else 0.0, DENSE, why)
            for name, size, zeros in onnx_weights(path)
        ]
        report = CheckReport(path, target.name, rows, 1.0, [])
    else:
        report = read_tflite(
            path, lambda graph: _with_unfit(check_graph(path, graph, target), graph, target)
        )
    if report.ok:  # Else layer by layer.
        report = dataclasses.replace(report, layers=[*_unread(path, target), *report.layers])
    return report


def _unread(path, target):
    """What is in a file that the target's runtime does not read, though others run it."""
    return [
        LayerVerdict(path, "file", 0.0, FAILS, f"{name} does not read {each}", "export it with "
                     f"export_tflite(target={target.name!r}), or with sparse=False")
        for name, what in readers.unread(Path(path).read_bytes(), target.runtime).items()
        for each in what
    ]  # fmt: skip


def _with_unfit(report, graph, target):
    """Add what the target has no kernels for."""
    rows = [
        LayerVerdict(op.name, op.type, op.weight.sparsity if op.weight else 0.0, FAILS, why, advice)
        for op, why, advice in unfit(graph, target)
    ]
    there = {(row.name, row.type) for row in rows}
    rest = [layer for layer in report.layers if (layer.name, layer.type) not in there]
    return dataclasses.replace(report, layers=rows + rest)


def check_graph(name, graph, target, notes=()):
    """Make the `CheckReport` of a `Graph` on a `Target`."""
    found = xnnpack.clusters(graph) if target.clusters else []
    judge = _Judge(graph, target, found)
    rows = _free_inputs(graph, target) if target.fixed_shapes else []
    rows += [judge.verdict(op) for op in graph.ops if op.weight is not None or op in judge.broken]
    return CheckReport(
        name, target.name, rows, judge.gain(), [*notes, *_cluster_notes(found, graph)]
    )


def _free_inputs(graph, target):
    return [
        LayerVerdict(
            name,
            "input",
            0.0,
            FAILS,
            f"has dynamic dimensions, {tuple(shape)}, and {target.runtime} takes fixed ones only",
            "export it with a batch_size, and input_shape",
        )
        for name, shape in graph.free.items()
    ]


class _Judge:
    def __init__(self, graph, target, found):
        self.graph, self.target = graph, target
        self.cluster = {id(op): cluster for cluster in found for op in cluster.ops}
        self.broken = {
            op: (_BROKEN[effect], why, advice)
            for cluster in found
            if cluster.changed
            for op, effect, why, advice in cluster.broken
        }

    def verdict(self, op):
        sparsity = op.weight.sparsity if op.weight else 0.0
        verdict, reason, advice = self.broken.get(op) or self._verdict(op)
        return LayerVerdict(op.name, op.type, sparsity, verdict, reason, advice)

    def _verdict(self, op):
        stored = op.weight.encoding != "dense"
        if self.target.block_cost is None:
            return DENSE, self.target.no_kernels, ""
        if op.weight.encoding == "blocks":
            return self._blocks(op)
        if op.kind == "dense" and len(op.outputs[0].shape) != 4:
            kept = SMALLER if stored else DENSE
            inputs = op.inputs[0].shape[-1]
            if inputs % BLOCK:
                return kept, f"its {inputs} inputs do not divide into blocks of {BLOCK}", ""
            needed = f"zeros in blocks, more than {tables.percent(self.target.blocks_from)} of all"
            return kept, f"a dense layer on vectors needs {needed}", PRUNE_IN_BLOCKS
        if not op.pointwise:
            reason = "only 1x1 convolutions and dense layers have sparse kernels"
            return (SMALLER if stored else DENSE), reason, ""
        if not self.target.clusters:
            reason = "on x86 with AVX, XNNPACK computes 1x1 convolutions densely by design"
            return (SMALLER if stored else DENSE), reason, ""
        verdict, reason, advice = self._pointwise(op)
        return (DENSE if verdict == SMALLER and not stored else verdict), reason, advice

    def _blocks(self, op):
        needed = self.target.blocks_from
        share = 1 - op.weight.kept / op.weight.size
        shown = f"{tables.percent(share)} of it is zero in blocks of (4, 1)"
        if share > needed:
            return FASTER, shown, ""
        advice = "prune it further, or without a pattern"
        return SLOWER, f"{shown}; this kernel is faster from {tables.percent(needed)} on", advice

    def _pointwise(self, op):
        cluster = self.cluster.get(id(op))
        if cluster is None:
            return SMALLER, "it is in no cluster of the sparse path", ""
        if cluster.changed:
            return FASTER, "in a cluster on the sparse path", ""
        if cluster.blame is not None:
            blame = cluster.blame
            return SMALLER, f"'{blame.op.name}' {blame.reason}", blame.advice
        share = tables.percent(cluster.sparsity)
        if cluster.enough:
            reason = f"{share} of the cluster's 1x1 weights are zero, but they are stored dense"
            return SMALLER, reason, "export with sparse='auto', without quantize or in float16"
        reason = (
            f"{share} of the cluster's 1x1 weights are zero, more than {NEEDED_PERCENT} are needed"
        )
        return SMALLER, reason, PRUNE_FURTHER

    def gain(self):
        """Estimate how many times faster than dense the whole is."""
        dense = sparse = 0.0
        for op in self.graph.ops:
            time = op.macs * (_DEPTHWISE_TIME if op.kind == "depthwise" else 1)
            dense += time
            sparse += time * self._factor(op)
        return dense / sparse if sparse else 1.0

    def _factor(self, op):
        if op.weight is None:
            return 1.0
        density = 1 - op.weight.sparsity
        if op.weight.encoding == "blocks" and self.target.block_cost:
            return self.target.block_cost * op.weight.kept / op.weight.size
        cluster = self.cluster.get(id(op))
        if cluster is not None and cluster.changed and op.pointwise:
            return density + _SPARSE_TIME
        return 1.0


def _cluster_notes(found, graph):
    """One sentence for each operator that a cluster ends at: how many layers it costs."""
    lost = {}
    for cluster in found:
        if cluster.blame is not None and cluster.blame.op.kind in ("conv", "depthwise", "other"):
            count = sum(op.kind == "conv" and op.pointwise for op in cluster.ops)
            if count:
                blame, before = lost.get(id(cluster.blame.op), (cluster.blame, 0))
                lost[id(cluster.blame.op)] = blame, before + count
    notes = []
    for blame, count in lost.values():
        text = f"'{blame.op.name}' {blame.reason}: the sparse path ends here, and {count} 1x1 "
        text += f"convolution{'s lose' if count > 1 else ' loses'} acceleration"
        notes.append(text + (f"; {blame.advice}" if blame.advice else ""))
    for cluster in found:
        if cluster.broken and not cluster.changed and cluster.blame is None:
            op, effect, why, advice = cluster.broken[0]
            notes.append(
                f"'{op.name}' {why}: with more than {NEEDED_PERCENT} zeros in the cluster, and "
                f"stored sparse, the file {effect} here; {advice}"
            )
    return notes


__all__ = ["CheckReport", "LayerVerdict", "check", "check_graph"]
