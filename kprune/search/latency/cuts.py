"""What operators the exported files of a model's cuts have, without exporting them."""

import contextlib
import warnings

import numpy as np

from kprune._system.files import scratch
from kprune.graphs.functional import functional_form
from kprune.search.latency.operators import exported, operators_of
from kprune.search.latency.sizes import SizeMap, probes
from kprune.structured.costs import Cost, calibrate
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from kprune.structured.surgery import cut


class Cuts:
    """The operators of a model's file, and their shapes with fewer channels.

    Args:
        model: a built Keras model.
        format: `"tflite"` or `"onnx"`.
        free_dim, input_shape: as of `prune_channels`.

    Attributes:
        names: of the channel groups.
        counts: int array, how many channels each of them has.
        free: bool array, which of them can lose any.
        operators: `SingleOperator`s of the file; none where with fewer channels it has others.
        sizes: function from numbers of channels to the operators' shapes.
        dense: the file's bytes.
        notes: list of str, what is not as it should be.
    """

    def __init__(self, model, format, free_dim=None, input_shape=None):
        self._graph = ChannelGraph(functional_form(model), free_dim, input_shape)
        self._groups, self._format, self.notes = find_groups(self._graph), format, []
        self.input_shape = self._graph.input_shape
        self.names = [group.name for group in self._groups]
        self.counts = np.array([group.channels for group in self._groups], int)
        self.free = np.array([not group.frozen for group in self._groups], bool)
        self.operators, self._flops = [], None
        with scratch() as folder:
            self._read(folder)

    def _read(self, folder):
        """Read the operators of the dense model and of two cuts, which say what follows what."""
        kept = probes(self.counts, self.free) if self.free.any() else self.counts[None][:0]
        files = []
        for number, numbers in enumerate([self.counts, *kept]):
            path = folder / f"{number}.{self._format}"
            model = self.cut(numbers) if number else self._graph.model
            exported(model, path, self._format, self.input_shape)
            files.append(operators_of(path))
            self.dense = self.dense if number else path.read_bytes()
        if any(_outlines(file) != _outlines(files[0]) for file in files):
            self._use_flops()
            return
        self.operators = files[0]
        self.sizes = SizeMap([[one.shapes for one in file] for file in files], self.counts, kept)
        if self.sizes.approximate:
            self.notes.append(
                f"{self.sizes.approximate} sizes of tensors follow no groups of channels exactly"
            )

    def cut(self, kept):
        """Return the model with `kept[g]` channels in the g-th group, whichever these are."""
        gone = [g.roots[: g.channels - n] for g, n in zip(self._groups, kept)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is said is said of the model that is wanted.
            return cut(self._graph, np.concatenate([np.zeros(0, int), *gone]))

    def _use_flops(self):
        note = (
            f"with fewer channels the file of {self._graph.model.name!r} has other operators than "
            "before, so that its latency is estimated by FLOPs"
        )
        warnings.warn(f"{note[0].upper()}{note[1:]}.", stacklevel=5)
        self.notes.append(note)
        self._flops = calibrate(self._graph), Cost(self._groups)

    def share_of_flops(self, kept):
        """Return the share of the model's FLOPs with these numbers of channels."""
        total, cost = self._flops
        return float((total - cost(self.counts)[1] + cost(np.asarray(kept))[1]) / max(total, 1))

    def requests(self, kept):
        """Return `(operator, shapes)` for each operator, with these numbers of channels."""
        return list(zip(self.operators, self.sizes(kept)))

    def grid(self, shares):
        """Return `requests` at shares of all groups' channels, in eights where there are many."""
        found = []
        for share in shares:
            wanted = self.counts * share
            eights = np.round(wanted / 8) * 8
            rounded = np.where(wanted >= 8, eights, np.maximum(1, np.round(wanted)))
            kept = np.where(self.free, np.minimum(self.counts, rounded), self.counts)
            found += self.requests(kept.astype(int))
        return found

    @contextlib.contextmanager
    def dense_file(self):
        """Yield the path of the dense model's file, which is there as long as the block."""
        with scratch() as folder:
            path = folder / f"dense.{self._format}"
            path.write_bytes(self.dense)
            yield path


def _outlines(operators):
    return [(one.name, [len(shape) for shape in one.shapes]) for one in operators]
