"""What Vela writes beside a compiled file, read as a `VelaEstimate`.

The summary, `*_summary_*.csv`, has the figures of the whole. The database, `*_debug.xml`, has
those of each operator that Vela made: `perf` its cycles, those of each memory among them;
`perf_debug` which of these are for weights and which for activations; `source` of which operator
of the file it was made.
"""

import csv
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

WEIGHTS, ACTIVATIONS, ARITHMETIC = "weights", "activations", "arithmetic"
_LEFT = re.compile(r"operator: (\w+), ofm: '(.*)'\s*\nReason: (.*)")
_TABLE = re.compile(r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\]\]>', re.DOTALL)
_ON_THE_PROCESSOR = "Passthrough"  # the name that Vela has for what it leaves alone
_MEMORIES = ("Sram", "Dram", "OnChipFlash", "OffChipFlash")


@dataclasses.dataclass(frozen=True)
class VelaLayer:
    """What Vela estimates of one operator of a file.

    Attributes:
        name: of its layer, as far as the names of its tensors tell.
        operator: what it is, in Vela's words: `"Conv2D"`, `"FullyConnected"` …
        on_npu: whether it runs on the Ethos-U; else on the processor, of which Vela estimates
            nothing.
        cycles: that it takes, as one of these bounds it.
        bound: what most of its cycles wait for: `"weights"` to be read, `"activations"` to be read
            or written, or `"arithmetic"`; None where it takes no time.
        weight_bytes: of its weights, as compiled.
        macs: multiply-adds.
        reason: why it is left to the processor.
    """

    name: str
    operator: str
    on_npu: bool
    cycles: int
    bound: str | None
    weight_bytes: int
    macs: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class VelaEstimate:
    """What Vela estimates of a compiled file: nothing of it is measured.

    What runs on the processor is not in the time.

    Example:

    ```python
    report = kprune.export_tflite(
        model, "m.tflite", quantize="int8", representative_data=x, target="ethos-u55-128"
    )
    report.estimate.cycles, report.estimate.flash_bytes
    [layer.name for layer in report.estimate.layers if layer.bound == "weights"]
    ```

    Attributes:
        target: the target's name.
        compiler: Vela, and its version.
        system_config, memory_mode: the memories that it assumes.
        clock: of the Ethos-U, in Hz.
        cycles, seconds, inferences_per_second: of a run.
        sram_bytes: the most SRAM that is used at a time.
        dram_bytes: of DRAM, where the memory mode has some: weights and activations.
        flash_bytes: of the compiled file, whole.
        weight_bytes: of all weights, as compiled.
        original_weight_bytes: before that.
        layers: a `VelaLayer` for each operator of the file.
    """

    target: str
    compiler: str
    system_config: str
    memory_mode: str
    clock: float
    cycles: int
    seconds: float
    inferences_per_second: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    weight_bytes: int
    original_weight_bytes: int
    layers: list[VelaLayer]

    @property
    def npu_operators(self) -> int:
        """How many operators run on the Ethos-U."""
        return sum(layer.on_npu for layer in self.layers)

    @property
    def cpu_operators(self) -> int:
        """How many are left to the processor."""
        return len(self.layers) - self.npu_operators

    def bound_by(self, what: str) -> float:
        """Return the share of the time that layers bound by `what` take, a fraction."""
        total = sum(layer.cycles for layer in self.layers)
        return sum(layer.cycles for layer in self.layers if layer.bound == what) / (total or 1)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        counts = {"npu_operators": self.npu_operators, "cpu_operators": self.cpu_operators}
        return {**dataclasses.asdict(self), **counts}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VelaEstimate":
        """Return the estimate that `to_dict` was made of."""
        names = [field.name for field in dataclasses.fields(cls)]
        layers = [VelaLayer(**layer) for layer in data["layers"]]
        return cls(**{name: data[name] for name in names} | {"layers": layers})


def to_json(estimate: VelaEstimate, compiled: bytes) -> bytes:
    """Return an estimate as JSON, with what tells the file that it is of."""
    data = {"sha256": hashlib.sha256(compiled).hexdigest(), **estimate.to_dict()}
    return (json.dumps(data, indent=1) + "\n").encode()


def estimate_beside(path: Path) -> VelaEstimate:
    """Return the estimate of a compiled file, `model_vela.tflite`, from the `.json` beside it.

    Raises:
        ValueError: there is none, or that of another file.
    """
    beside = path.with_suffix(".json")
    what = (
        f"{path} is compiled already, and carries no estimate of its own: Vela's is in "
        f"{beside.name}, which `export_tflite` writes beside it. "
    )
    instead = "Give the int8 files that they were made from, and a `target`."
    try:
        data = json.loads(beside.read_text())
        estimate = VelaEstimate.from_dict(data)
    except FileNotFoundError:
        raise ValueError(f"{what}It is not there. {instead}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what}It cannot be read ({error}). {instead}") from error
    if data.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ValueError(f"{what}It is that of another file. {instead}")
    return estimate


def read_estimate(folder, printed, target, compiler, layers, flash_bytes):
    """Read what Vela wrote into `folder`, and what it printed.

    Args:
        folder: a `Path`.
        printed: str.
        target: the target's name.
        compiler: str, its name and version.
        layers: the layer's name of each operator of the file that was compiled.
        flash_bytes: int, of the compiled file.
    """
    (summary,) = folder.glob("*_summary_*.csv")
    with open(summary, newline="") as file:
        (figures,) = csv.DictReader(file)
    (database,) = folder.glob("*_debug.xml")
    cycles, clock = int(figures["cycles_total"]), float(figures["core_clock"])
    return VelaEstimate(
        target=target,
        compiler=compiler,
        system_config=figures["system_config"],
        memory_mode=figures["memory_mode"],
        clock=clock,
        cycles=cycles,
        seconds=cycles / clock,
        inferences_per_second=clock / cycles if cycles else 0.0,
        sram_bytes=_bytes(figures["sram_memory_used"]),
        dram_bytes=_bytes(figures["dram_memory_used"]),
        flash_bytes=flash_bytes,
        weight_bytes=int(figures["total_npu_encoded_weights"]),
        original_weight_bytes=int(figures["total_original_weights"]),
        layers=_layers(_tables(database.read_text(errors="replace")), layers, printed),
    )


def _bytes(kibibytes):
    return round(1024 * float(kibibytes))


def _tables(text):
    """{name: rows, as dicts} of the database, whose cells may hold what XML may not."""
    return {name: list(csv.DictReader(io.StringIO(rows))) for name, rows in _TABLE.findall(text)}


def _layers(tables, names, printed):
    """One `VelaLayer` for each operator of the file, of the several that Vela makes of one."""
    reasons = {ofm: reason for _, ofm, reason in _LEFT.findall(printed)}
    details = {row["id"]: row for row in tables["perf_debug"]}
    sources = {row["id"]: int(row["ext_key"]) for row in tables["source"]}
    kinds = {int(row["ext_key"]): row["operator"] for row in tables["source"]}
    made: dict[int, list] = {}
    for row in tables["perf"]:
        index = sources.get(row["source_id"])
        if index is not None:
            made.setdefault(index, []).append((row, details.get(row["id"], {})))
    result = []
    for index, rows in sorted(made.items()):
        name = names[index] if index < len(names) else rows[0][0]["name"]
        result.append(_layer(name, kinds[index], rows, reasons))
    return result


def _layer(name, operator, rows, reasons):
    cycles = {WEIGHTS: 0, ACTIVATIONS: 0, ARITHMETIC: 0}
    for row, detail in rows:
        cycles[_bound(row, detail)] += _int(row["op_cycles"])
    total = sum(cycles.values())
    on_npu = any(row["operator"] != _ON_THE_PROCESSOR for row, _ in rows)
    return VelaLayer(
        name=name,
        operator=operator,
        on_npu=on_npu,
        cycles=total,
        bound=max(cycles, key=lambda what: cycles[what]) if total else None,
        weight_bytes=sum(_int(detail.get("weight_total_bytes")) for _, detail in rows),
        macs=sum(_int(row["mac_count"]) for row, _ in rows),
        reason=""
        if on_npu
        else next((reasons[r["name"]] for r, _ in rows if r["name"] in reasons), ""),
    )


def _bound(row, detail):
    """What an operator of Vela's waits for: the slowest of its arithmetic and its memories."""
    waits = {memory: _int(row.get(f"{memory}_ac")) for memory in _MEMORIES}
    slowest = max(waits, key=lambda memory: waits[memory])
    if waits[slowest] <= _int(row["npu_cycles"]):
        return ARITHMETIC
    # Scales and biases are constants that are read with the weights.
    constants = sum(_int(detail.get(f"{slowest}{what}_ac")) for what in ("Weights", "Scales"))
    return WEIGHTS if constants > _int(detail.get(f"{slowest}FeatureMap_ac")) else ACTIVATIONS


def _int(text):
    return int(text) if text else 0
