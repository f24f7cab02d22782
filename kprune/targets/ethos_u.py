"""What zeros are worth on an Ethos-U: asked of Vela for a file, and judged for a Keras model.

How fast a file was before it was pruned is asked, too: of the same file with its zeros filled
(`formats.tflite.filled`). All that is Vela's estimate; nothing is measured.
"""

import dataclasses
from pathlib import Path

from kprune._system.errors import ExportError
from kprune.formats.tflite import filled
from kprune.formats.tflite.compiled import is_compiled
from kprune.report import tables
from kprune.runtimes.vela import compile_tflite
from kprune.runtimes.vela_tables import ACTIVATIONS, ARITHMETIC, WEIGHTS, VelaEstimate
from kprune.targets.check import DENSE, FAILS, FASTER, SMALLER, CheckReport, LayerVerdict
from kprune.targets.from_keras import read
from kprune.targets.from_tflite import read_tflite
from kprune.targets.outlook import NO_FASTER, REMOVE, SHRINK, Outlook, has_whole_channels

LEFT = "left to the processor"
_BOUND = {
    WEIGHTS: "reading its weights takes most of its time",
    ACTIVATIONS: "reading and writing activations takes most of its time",
    ARITHMETIC: "arithmetic takes most of its time",
}
_FEWER = "for time, remove channels"
_INT8 = "export it with quantize='int8'"


@dataclasses.dataclass(frozen=True)
class _Speeds:
    """What Vela's estimates of single layers come to, on the memories that it assumes.

    Attributes:
        bytes: of weights that are read in a cycle.
        dense: multiply-adds a cycle of a dense layer on vectors.
        used: the share of its multiply-adds that a convolution uses.
    """

    bytes: float
    dense: float
    used: float = 0.7


# Of dense layers of 128x128 to 640x128 and 1x1 convolutions of 64 to 80 channels, in Vela 5.2.0.
_SPEEDS = {"u55": _Speeds(1.0, 6.5), "u65": _Speeds(12.0, 6.3), "u85": _Speeds(3.3, 7.5)}
_CLEARLY = 2  # times as long as the other, so that a layer is bound by it whatever its shape


def as_dense(blob, target, estimate, sram=None):
    """Return the `VelaEstimate` of a file with its zeros filled; `estimate`, its own, without any.

    Args:
        blob: the bytes of an int8 `.tflite` file.
        target: a `Target`.
        estimate: the file's own `VelaEstimate`.
        sram: as in `compile_tflite`.

    Raises:
        ExportError: Vela could not compile it.
    """
    dense = filled.transform(blob)
    return estimate if dense is blob else compile_tflite(dense, target.name, sram).estimate


def check_file(path, target):
    """Make the `CheckReport` of a `.tflite` file, by Vela's estimate.

    Raises:
        ValueError: a damaged file, or one that Vela cannot compile.
        ImportError: Vela is not installed.
        OSError: the file cannot be read.
    """
    graph, blob = read_tflite(path, lambda graph: graph), Path(path).read_bytes()
    if is_compiled(blob):
        raise ValueError(
            f"'{path}' is compiled already, and Vela cannot tell what it was: give the int8 file "
            "that it was made from."
        )
    try:
        estimate = compile_tflite(blob, target.name).estimate
        dense = as_dense(blob, target, estimate)
    except ExportError as error:
        raise ValueError(f"'{path}': {error}") from error
    weights: dict[str, list] = {}
    for op in graph.ops:
        if op.weight is not None:
            weights.setdefault(op.name, []).append(op.weight)
    rows = []
    for now, before in zip(estimate.layers, dense.layers):
        if weights.get(now.name) and (now.weight_bytes or not now.on_npu):
            sparsity = weights[now.name].pop(0).sparsity
            rows.append(_verdict(now, before, sparsity, estimate, target))
    return CheckReport(path, target.name, rows, _gain(estimate, dense), _notes(estimate, dense))


def _verdict(now, before, sparsity, estimate, target):
    row = {"name": now.name, "type": now.operator, "sparsity": sparsity}
    if not now.on_npu:
        fails = estimate.npu_operators == 0
        why = f"{LEFT}: {now.reason}"
        return LayerVerdict(**row, verdict=FAILS if fails else LEFT, reason=why, advice=_INT8)
    of = f"its weights take {now.weight_bytes:,} bytes"
    if sparsity <= filled.FILLED_FROM:
        use = f"{_BOUND[now.bound]}; {of}"
        pays = now.bound == WEIGHTS
        advice = f"zeros would make it {'smaller and faster' if pays else f'smaller; {_FEWER}'}"
        return LayerVerdict(**row, verdict=DENSE, reason=use, advice=advice)
    of += f" and would take {before.weight_bytes:,} dense"
    gain = before.cycles / now.cycles
    if gain >= NO_FASTER:
        why = f"{before.cycles:,} cycles dense, {now.cycles:,} so; {of}"
        return LayerVerdict(**row, verdict=FASTER, reason=why)
    return LayerVerdict(
        **row, verdict=SMALLER, reason=f"{_BOUND[before.bound]}; {of}", advice=_FEWER
    )


def _gain(estimate, dense):
    return dense.cycles / estimate.cycles if estimate.cycles else 1.0


def _notes(estimate, dense):
    if not estimate.npu_operators:
        return ["nothing of it would run on the Ethos-U"]
    notes = [summary(estimate)]
    if dense is not estimate:
        notes.append(
            f"as dense, with its zeros filled: {dense.cycles:,} cycles, "
            f"{tables.size(dense.flash_bytes)} of flash, {dense.weight_bytes:,} bytes of weights"
        )
    return notes + left_to_the_processor(estimate)


def summary(estimate: VelaEstimate) -> str:
    """Say in a sentence what a compiled file takes, and that it was not measured."""
    return (
        f"{estimate.compiler}'s estimate, not measured ({estimate.system_config}, "
        f"{estimate.memory_mode}): {estimate.cycles:,} cycles, "
        f"{tables.milliseconds(estimate.seconds)}, "
        f"{estimate.inferences_per_second:,.0f} inferences a second; "
        f"{tables.size(estimate.sram_bytes)} of SRAM, "
        f"{tables.size(estimate.flash_bytes)} of flash, {estimate.weight_bytes:,} bytes of weights "
        f"in it (from {estimate.original_weight_bytes:,})"
    )


def rows_of(estimate):
    """Yield (name, value) for the table of an `ExportReport`."""
    yield f"{estimate.target}, not measured", summary(estimate)
    shares = ", ".join(f"{what} {tables.percent(estimate.bound_by(what))}" for what in _BOUND)
    yield "its time waits for", shares
    yield (
        "operators",
        f"{estimate.npu_operators} on the Ethos-U, {estimate.cpu_operators} left to the processor",
    )


def left_to_the_processor(estimate):
    """Return notes on what does not run on the Ethos-U: none, or one with names and reasons."""
    left = [layer for layer in estimate.layers if not layer.on_npu]
    if not left:
        return []
    named = [
        f"{layer.operator} '{layer.name}'" + (f" ({layer.reason})" if layer.reason else "")
        for layer in left
    ]
    return [f"{LEFT}, and not in the estimate: {tables.listed(named, most=8, separator='; ')}"]


def outlook(estimate, dense, target, model):
    """Return the `Outlook` of a file with zeros.

    Args:
        estimate: its `VelaEstimate`.
        dense: that of the file with its zeros filled.
        target: a `Target`.
        model: the Keras model that it was made from.
    """
    flash = (
        f"{tables.size(estimate.flash_bytes)} of flash, and {tables.size(dense.flash_bytes)} with "
        "the zeros filled"
    )
    gain = _gain(estimate, dense)
    if gain >= NO_FASTER:
        return Outlook(target.name, gain, flash)
    bound = max(_BOUND, key=dense.bound_by)
    what = {WEIGHTS: "reading weights", ACTIVATIONS: "reading and writing activations"}
    why = f"{what.get(bound, bound)} takes {tables.percent(dense.bound_by(bound))} of its time"
    advice = SHRINK if has_whole_channels(model) else f"{_FEWER}: {REMOVE}"
    return Outlook(target.name, gain, f"{why}; {flash}", advice)


def check_model(model, target, input_shape, notes):
    """Make the `CheckReport` of a Keras model, from the shapes of its layers: nothing is run.

    Whether weights bound a layer is Vela's to say, of the quantized file; what is said here is
    what is clear from how often each weight is used.
    """
    graph = read(model, input_shape=input_shape)
    rows = [_foreseen(op, target) for op in graph.ops if op.weight is not None]
    note = (
        "foreseen from the layers' shapes: for Vela's estimate, layer by layer, export it with "
        f"quantize='int8', target={target.name!r} and check that file"
    )
    return CheckReport(model.name, target.name, rows, None, [*notes, note])


def _foreseen(op, target):
    bound, clear = foreseen_bound(op, target)
    reason = _BOUND[bound] if clear else "weights and arithmetic may each take most of its time"
    faster = bound == WEIGHTS
    if op.weight.zeros == 0:
        verdict, advice = DENSE, f"zeros would make it smaller{' and faster' if faster else ''}"
    else:
        verdict, advice = (FASTER if faster else SMALLER), ""
    if bound != WEIGHTS:
        advice = "; ".join(filter(None, [advice, _FEWER]))
    return LayerVerdict(op.name, op.type, op.weight.sparsity, verdict, reason, advice)


def foreseen_bound(op, target):
    """Return (what bounds an operator, whether that is clear), from how often weights are used.

    Args:
        op: an `Op` with a weight.
        target: a `Target`.
    """
    family, macs = target.name.split("-")[1:]
    speeds = _SPEEDS[family]
    on_vectors = op.kind == "dense" and len(op.outputs[0].shape) < 3
    reading = op.weight.size / speeds.bytes
    computing = op.macs / (speeds.dense if on_vectors else speeds.used * int(macs))
    bound = WEIGHTS if reading > computing else ARITHMETIC
    larger, smaller = max(reading, computing), min(reading, computing)
    return bound, larger >= _CLEARLY * smaller
