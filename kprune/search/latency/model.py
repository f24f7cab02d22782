"""How long cuts of a model take in a target's runtime, by the times of its operators."""

from typing import Any

import keras
import numpy as np

from kprune._system.files import scratch
from kprune._system.quiet import progress
from kprune._system.type_aliases import FilePath, InputShape
from kprune.graphs.functional import functional_form
from kprune.report import tables
from kprune.report.tables import Printable
from kprune.search.latency.blocks import block_of, widths_beside
from kprune.search.latency.cuts import Cuts
from kprune.search.latency.device import DEVICE_SHARES
from kprune.search.latency.operators import exported, is_open
from kprune.search.latency.timers import check_target, timer_for
from kprune.search.latency.times import Times
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups

SHARES = (1.0, 0.75, 0.5, 0.25)  # Of the channels of all groups, measured beforehand.
_DEFAULT_BLOCK = 8


class LatencyModel(Printable):
    """Predicts the latency of a model's cuts, by operators measured in the target's runtime.

    The model is exported, and each operator of the file is timed in a file of its own. Two cuts,
    or up to six, are exported to see which tensors' sizes follow which channel groups. Then the
    operators of any cut are known without exporting it; those of new sizes are timed as they are
    asked for, once on a machine: see `KPRUNE_LATENCY_CACHE`.

    Example:

    ```python
    latency = kprune.search.LatencyModel(model, "onnxruntime")
    small = kprune.prune_channels(model, flops=0.5)
    latency.predict(small) / latency.predict(model)
    print(latency)
    ```

    Args:
        model: a built Keras model, as for `kprune.prune_channels`.
        target: `"litert-x86"`, `"litert-arm64"`, `"litert-wasm"`, `"onnxruntime"`, or a
            `kprune.targets.Target`.
        threads: int, how many threads the runtime may use.
        measured: path of the JSON that `scripts/benchmark_device.py` wrote on a device, for the
            files of `write_operators`; by default times are measured on this machine.
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples, where
            the model leaves them open.
        timer: what times operators and files instead of the runtime, for tests.

    Attributes:
        seconds: float, the dense file's latency.
        notes: list of str, what is not as it should be: operators that cannot be timed alone.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: a target that this machine cannot run, a model that cannot be traced, or a
            file of times that does not belong to it.
        ImportError: the runtime, or what the export needs, is not installed.
        ExportError: the model cannot be exported.
    """

    def __init__(
        self,
        model: keras.Model,
        target: Any,
        threads: int = 1,
        measured: FilePath | None = None,
        free_dim: int | None = None,
        input_shape: InputShape | None = None,
        timer: Any = None,
    ) -> None:
        self.target = check_target(target, measured, timer)
        self.threads = threads
        self.history: list[tuple] = []  # What was predicted of a cut, and measured.
        self._timer = timer or timer_for(self.target, threads, measured)
        self._times = Times(self._timer) if timer or measured else Times.kept(self._timer)
        self._cuts = Cuts(model, self.target.format, free_dim, input_shape)
        self.name, self.notes = self._cuts.model.name, self._cuts.notes
        self._block: int | None = None
        with self._cuts.dense_file() as dense:
            self.seconds = self._timer.seconds(dense)
        shares = DEVICE_SHARES if measured else SHARES
        if measured:
            self._timer.check(self.name, self._cuts.operators, self._cuts.grid(shares))
        if self._cuts.operators:
            self._measure_grid(shares)
        self._base, self._scale = min(self._timer.base(), 0.9 * self.seconds), 1.0
        dense = sum(self._seconds(self.counts))
        if dense:
            self._scale = (self.seconds - self._base) / dense

    def _measure_grid(self, shares):
        self._measure(self._cuts.grid(shares))
        known = [self._times.at(one, one.shapes) is not None for one in self._cuts.operators]
        if not any(known):
            raise ValueError(f"None of the operators of {self.name!r} could be timed alone.")
        alone = {one.name for one, timed in zip(self._cuts.operators, known) if not timed}
        if alone:
            self.notes.append(
                f"not timed alone, and taken to change as all others do: {', '.join(sorted(alone))}"
            )

    def _measure(self, requests):
        with progress() as show:
            self._times.measure(requests, show)

    def _seconds(self, kept):
        if not self._cuts.operators:  # Then latency goes by FLOPs.
            return [self.seconds * self._cuts.share_of_flops(kept)]
        return [self._times.at(*request) or 0.0 for request in self._cuts.requests(kept)]

    @property
    def counts(self) -> np.ndarray:
        """The number of channels of each group of the model."""
        return self._cuts.counts

    @property
    def elsewhere(self) -> bool:
        """Whether the times are a device's, so that nothing can be timed here."""
        return not self._timer.anywhere

    @property
    def floor(self) -> float:
        """The share of the dense file's latency that a file of next to nothing has."""
        return self._base / self.seconds

    def channels_of(self, graph: Any, groups: Any) -> np.ndarray:
        """Return how many channels a cut of the model has in each of the model's groups.

        Args:
            graph: the cut's `ChannelGraph`.
            groups: its `ChannelGroup`s.

        Raises:
            ValueError: no cut of that model.
        """
        if not self._cuts.includes(graph, groups):
            raise ValueError(
                f"The latency model is of {self.name!r}, and {graph.model.name!r} is neither that "
                "model nor a cut of it: layers, channel groups or sizes of inputs differ. Give it "
                "a model that prune_channels made of that one, or make another LatencyModel."
            )
        return np.array([group.channels for group in groups])

    def estimate(self, kept: np.ndarray) -> float:
        """Return the seconds with `kept[g]` channels in the g-th group, without measuring."""
        return self._base + self._scale * sum(self._seconds(kept))

    def measure(self, kept: np.ndarray) -> float:
        """Time the operators with these numbers of channels, if need be; return the seconds."""
        if self._cuts.operators:
            self._measure(self._cuts.requests(kept))
        return self.estimate(kept)

    def predict(self, model: keras.Model) -> float:
        """Return the predicted latency of a cut of the model, in seconds.

        Args:
            model: the Keras model that was given at first, or what `kprune.prune_channels` made
                of it.

        Raises:
            ValueError: no cut of that model.
        """
        shape = self._cuts.input_shape if is_open(model) else None
        graph = ChannelGraph(functional_form(model), input_shape=shape)
        return self.measure(self.channels_of(graph, find_groups(graph)))

    def share_of(self, model: keras.Model, whole: Any = None) -> float | None:
        """Return the share of another model's latency that a model has, timed side by side.

        Args:
            model: a Keras model.
            whole: the other, or its file as `file_of` returns it; by default the model that was
                given at first.

        Returns:
            Float; None where whole files cannot be timed here.
        """
        if self.elsewhere:
            return None
        with scratch() as folder:
            files = [folder / f"{name}.{self.target.format}" for name in ("dense", "small")]
            files[0].write_bytes(whole if isinstance(whole, bytes) else self.file_of(whole))
            files[1].write_bytes(self.file_of(model))
            return self._timer.whole(*files)

    def file_of(self, model: keras.Model | None = None) -> bytes:
        """Return a model's file as it is timed; by default the one that was given at first."""
        if model is None or model is self._cuts.model:
            return self._cuts.dense
        with scratch() as folder:
            path = folder / f"model.{self.target.format}"
            exported(model, path, self.target.format, self._cuts.input_shape)
            return path.read_bytes()

    @property
    def block(self) -> int:
        """How many channels the runtime computes at once, by the widest operators' times."""
        if self._block is None:
            self._block = _DEFAULT_BLOCK
            if self._cuts.operators and self._timer.anywhere:
                requests = widths_beside(self._cuts, self._times)
                self._measure([request for curve in requests for request in curve[1]])
                curves = [
                    (widths, [self._times.at(*request) for request in asked])
                    for widths, asked in requests
                ]
                self._block = block_of(curves) or _DEFAULT_BLOCK
        return self._block

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.name,
            "target": self.target.name,
            "threads": self.threads,
            "seconds": self.seconds,
            "base": self._base,
            "scale": self._scale,
            "block": self._block,
            "operators": [
                {"name": one.name, "seconds": self._times.at(one, one.shapes)}
                for one in self._cuts.operators
            ],
            "history": self.history,
            "notes": self.notes,
        }

    def __rich__(self):
        kinds: dict[str, list] = {}
        for one in self._cuts.operators:
            kinds.setdefault(one.name, []).append(self._times.at(one, one.shapes) or 0.0)
        rows = [
            (name, tables.count(len(times)), tables.milliseconds(sum(times)))
            for name, times in sorted(kinds.items(), key=lambda item: -sum(item[1]))
        ]
        notes = [f"The whole file: {tables.milliseconds(self.seconds)}."]
        if self._block is not None:
            notes.append(f"Channels are computed {self._block} at a time: that is `round_to`.")
        for predicted, reached in self.history:
            tried = f"Tried: {predicted:.3f} of the latency predicted"
            notes.append(tried + (f", {reached:.3f} measured." if reached is not None else "."))
        notes += [f"{note}." for note in self.notes]
        title = f"Latency of {self.name} on {self.target.name}, {self.threads} thread(s)"
        return tables.table(["operator", ">how many", ">together"], rows, title=title, notes=notes)
