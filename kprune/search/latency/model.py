"""How long cuts of a model take in a target's runtime, by the times of its operators."""

import warnings
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
from kprune.search.latency.operators import exported, operators_of
from kprune.search.latency.sizes import SizeMap, probes
from kprune.search.latency.timers import check_target, timer_for
from kprune.search.latency.times import Times
from kprune.structured.costs import Cost, calibrate
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from kprune.structured.surgery import cut

SHARES = (1.0, 0.75, 0.5, 0.25)  # Of the channels of all groups, measured beforehand.
_DEFAULT_BLOCK = 8


class LatencyModel(Printable):
    """Predicts the latency of a model's cuts, by operators measured in the target's runtime.

    The model is exported, and each operator of the file is timed in a file of its own. Two cuts
    are exported to see which tensors' sizes follow which channel groups. Then the operators of any
    cut are known without exporting it; those of new sizes are timed as they are asked for, once
    on a machine: see `KPRUNE_LATENCY_CACHE`.

    Example:

    ```python
    latency = kprune.search.LatencyModel(model, "litert-x86")
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
    ):
        self.target = check_target(target, measured, timer)
        self.threads = threads
        self.notes: list[str] = []
        self.history: list[tuple] = []  # What was predicted of a cut, and measured.
        self._timer = timer or timer_for(self.target, threads, measured)
        self._times = Times(self._timer) if timer or measured else Times.kept(self._timer)
        self._graph = ChannelGraph(functional_form(model), free_dim, input_shape)
        self._groups = find_groups(self._graph)
        self._names = [group.name for group in self._groups]
        self._counts = np.array([group.channels for group in self._groups])
        self._free = np.array([not group.frozen for group in self._groups], bool)
        self.name, self._by_flops = model.name, None
        self._block: int | None = None
        with scratch() as folder:
            self._read(folder)
        if self._operators:
            self._measure_grid()
        self._base, self._scale = min(self._timer.base(), 0.9 * self.seconds), 1.0
        dense = sum(self._seconds(self._counts))
        if dense:
            self._scale = (self.seconds - self._base) / dense

    def _read(self, folder):
        """Read the operators of the dense model and of two cuts."""
        dense = folder / f"dense.{self.target.format}"
        exported(self._graph.model, dense, self.target.format, self._graph.input_shape)
        self._dense = dense.read_bytes()
        self._operators = operators_of(dense)
        kept = probes(self._counts, self._free)
        shapes, alike = [[one.shapes for one in self._operators]], True
        for number, numbers in enumerate(kept if self._free.any() else kept[:0]):
            path = folder / f"probe{number}.{self.target.format}"
            exported(self._cut(numbers), path, self.target.format, self._graph.input_shape)
            found = operators_of(path)
            alike = alike and _outlines(found) == _outlines(self._operators)
            shapes.append([one.shapes for one in found])
        self.seconds = self._timer.seconds(dense)
        if not alike:
            self._use_flops()
            return
        self._sizes = SizeMap(shapes, self._counts, kept)
        if self._sizes.approximate:
            self.notes.append(
                f"{self._sizes.approximate} sizes of tensors follow no single group of channels "
                "and are approximated"
            )

    def _cut(self, kept):
        gone = [g.roots[: g.channels - n] for g, n in zip(self._groups, kept)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What they say is said of the model that comes back.
            return cut(self._graph, np.concatenate([np.zeros(0, int), *gone]))

    def _use_flops(self):
        """With fewer channels the file has other operators: then latency goes by FLOPs."""
        note = (
            f"With fewer channels the file of {self.name!r} has other operators than before, so "
            "that its latency is estimated by FLOPs"
        )
        warnings.warn(f"{note}.", stacklevel=5)
        self.notes.append(note)
        self._operators, total, cost = [], calibrate(self._graph), Cost(self._groups)
        constant = total - cost(self._counts)[1]
        self._by_flops = lambda kept: (constant + cost(kept)[1]) / max(total, 1)

    def _measure_grid(self):
        numbers = [self._share(share) for share in SHARES]
        self._measure([request for kept in numbers for request in self._requests(kept)])
        alone = {one.name for one in self._operators if self._times.at(one, one.shapes) is None}
        if alone:
            self.notes.append(
                f"cannot be timed alone, and are taken to change as all others do: "
                f"{', '.join(sorted(alone))}"
            )

    def _share(self, share):
        """About this share of each group's channels, in eights where there are many."""
        wanted = self._counts * share
        rounded = np.where(wanted >= 8, np.round(wanted / 8) * 8, np.maximum(1, np.round(wanted)))
        return np.where(self._free, np.minimum(self._counts, rounded), self._counts).astype(int)

    def _requests(self, kept):
        return list(zip(self._operators, self._sizes(kept)))

    def _measure(self, requests):
        with progress() as show:
            self._times.measure(requests, show)

    def _seconds(self, kept):
        if self._by_flops is not None:
            return [self._by_flops(np.asarray(kept))]
        return [self._times.at(*request) or 0.0 for request in self._requests(kept)]

    @property
    def counts(self) -> np.ndarray:
        """The number of channels of each group of the model."""
        return self._counts

    @property
    def elsewhere(self) -> bool:
        """Whether the times are a device's, so that nothing can be timed here."""
        return not self._timer.anywhere

    def channels_of(self, groups: Any) -> np.ndarray:
        """Return how many channels a cut of the model has in each of the model's groups.

        Raises:
            ValueError: the groups are others.
        """
        if [group.name for group in groups] != self._names:
            raise ValueError(
                f"The latency model is of {self.name!r}, whose channel groups are others than this "
                "model's: give it a model that prune_channels made of that one, or make another "
                f"LatencyModel. Received groups: {[group.name for group in groups][:5]}"
            )
        return np.array([group.channels for group in groups])

    def estimate(self, kept: np.ndarray) -> float:
        """Return the seconds with `kept[g]` channels in the g-th group, without measuring."""
        return self._base + self._scale * sum(self._seconds(kept))

    def measure(self, kept: np.ndarray) -> float:
        """Time the operators with these numbers of channels, if need be; return the seconds."""
        if self._operators:
            self._measure(self._requests(kept))
        return self.estimate(kept)

    def predict(self, model: keras.Model) -> float:
        """Return the predicted latency of a cut of the model, in seconds.

        Args:
            model: the Keras model that was given at first, or what `kprune.prune_channels` made
                of it.

        Raises:
            ValueError: no cut of that model.
        """
        shape = self._graph.input_shape if _is_open(model) else None
        groups = find_groups(ChannelGraph(functional_form(model), input_shape=shape))
        return self.measure(self.channels_of(groups))

    def share_of(self, model: keras.Model, whole: Any = None) -> float | None:
        """Return the share of another model's latency that a model has, timed side by side.

        Args:
            model: a Keras model.
            whole: the other; by default the one that was given at first.

        Returns:
            Float; None where whole files cannot be timed here.
        """
        with scratch() as folder:
            files = [folder / f"{name}.{self.target.format}" for name in ("dense", "small")]
            if whole is None:
                files[0].write_bytes(self._dense)
            else:
                exported(whole, files[0], self.target.format, self._graph.input_shape)
            exported(model, files[1], self.target.format, self._graph.input_shape)
            return self._timer.whole(*files)

    @property
    def block(self) -> int:
        """How many channels the runtime computes at once, by the widest operators' times."""
        if self._block is None:
            self._block = _DEFAULT_BLOCK
            if self._operators and self._timer.anywhere:
                requests = widths_beside(
                    self._operators, self._sizes, self._counts, self._free, self._times
                )
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
                for one in self._operators
            ],
            "history": self.history,
            "notes": self.notes,
        }

    def __rich__(self):
        kinds: dict[str, list] = {}
        for one in self._operators:
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


def _is_open(model):
    return any(None in tensor.shape[1:] for tensor in functional_form(model).inputs)


def _outlines(operators):
    return [(one.name, [len(shape) for shape in one.shapes]) for one in operators]
