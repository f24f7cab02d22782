"""What a round is asked to make, and what came of it."""

import dataclasses
from typing import Any


class Impossible(Exception):
    """What a step asks for cannot be done with this model; the message says why."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A model and a file to make: what is left of the dense one.

    Attributes:
        parent: int, the number of the point whose model it starts from.
        channels: float, the share of the dense model's FLOPs that stays when channels are removed.
        by_latency: bool, whether that is the share of its latency instead.
        depth: bool, whether whole blocks may leave as well, where the loss is lower so.
        sparsity: float, the share of zeros in the weights that are pruned.
        quantize: as of the exporters; None for float32.
        clusters: int, how many values a kernel may have; None for any.
        prepared: bool, whether `kprune.prepare` has changed it for its target.
        aware: bool, whether it is trained with the rounding of `quantize`.
        layers: {name of a layer: its sparsity}, chosen by Optuna; None with no such search.
        widths: {name of a group of channels: the share that stays}, as `layers`.
    """

    parent: int
    channels: float = 1.0
    by_latency: bool = False
    depth: bool = False
    sparsity: float = 0.0
    quantize: str | None = None
    clusters: int | None = None
    prepared: bool = False
    aware: bool = False
    layers: dict[str, float] | None = None
    widths: dict[str, float] | None = None

    def __str__(self):
        parts = []
        if self.channels < 1:
            what = "latency" if self.by_latency else "FLOPs"
            of = "channels and blocks" if self.depth else "channels"
            parts.append(f"{of} to {self.channels:.0%} of the {what}")
        if self.sparsity:
            parts.append(f"{self.sparsity:.1%} zeros")
        for name, chosen in {"zeros": self.layers, "of the channels": self.widths}.items():
            if chosen:
                mean = sum(chosen.values()) / len(chosen)
                parts.append(f"{mean:.0%} {name} (mean of {len(chosen)})")
        if self.clusters:
            parts.append(f"{self.clusters} values a kernel")
        if self.quantize:
            parts.append(f"{self.quantize}, trained for it" if self.aware else self.quantize)
        return ", ".join(parts) or "dense"


@dataclasses.dataclass(frozen=True)
class Point:
    """What came of a round: a file, what it scores, and what it costs in its runtime.

    Attributes:
        number: int, of the round; 0 is the dense file.
        step: the `Step` that it is of.
        metric: float, what `evaluate` returned; None without a file.
        drop: float, how much worse that is than the dense file's, as `max_drop` counts it.
        latency: float, seconds a run, the median; None where it was not measured.
        speedup: float, how many times as fast as the dense file.
        measured: bool, whether `speedup` was measured in the target's runtime, or is estimated.
        bytes, gzipped_bytes: int, the file's size.
        size_share: float, `gzipped_bytes` as a share of the dense file's.
        flops, parameters: int, of the model; zeros count.
        file: str, the path of the file; None where none could be made.
        model: str, the path of the `.keras` file that it was made from.
        judged: `"file"` where the metric is that of the file in its runtime; `"model"` where
            `evaluate` would take the Keras model only.
        reason: str, why there is no file, or no metric; of the dense one, why `evaluate` would not
            take the file.
        seconds: {"fit", "evaluate", "making", "export", "timing": ...}, wall time of the parts.
    """

    number: int
    step: Step
    metric: float | None = None
    drop: float | None = None
    latency: float | None = None
    speedup: float = 1.0
    measured: bool = False
    bytes: int | None = None
    gzipped_bytes: int | None = None
    size_share: float = 1.0
    flops: int | None = None
    parameters: int | None = None
    file: str | None = None
    model: str | None = None
    judged: str = "file"
    reason: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str | None:
        """The file."""
        return self.file

    @property
    def latency_share(self) -> float:
        """The share of the dense file's latency."""
        return 1 / self.speedup

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return dataclasses.asdict(self)


def point_from(data):
    """Return the `Point` that `to_dict` gave."""
    return Point(**{**data, "step": Step(**data["step"])})
