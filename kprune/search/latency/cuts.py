"""What operators the exported files of a model's cuts have, without exporting them."""

import contextlib
import warnings

import numpy as np

from kprune._system.files import scratch
from kprune._system.warn import warn_user
from kprune.graphs.functional import functional_form
from kprune.search.latency.operators import exported, operators_of
from kprune.search.latency.sizes import SizeMap, alike, probes
from kprune.structured.costs import Cost, calibrate
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from kprune.structured.surgery import cut

_SMALL = 3  # Channels: a converter may leave out operators where one of them stays.


class Cuts:
    """The operators of a model's file, and their shapes with fewer channels.

    Args:
        model: a built Keras model, or its `ChannelGraph`.
        format: `"tflite"` or `"onnx"`.
        free_dim, input_shape: as of `prune_channels`.

    Attributes:
        model: the functional model.
        names: of the channel groups.
        counts: int array, how many channels each of them has.
        free: bool array, which of them can lose any.
        operators: `SingleOperator`s of the file; none where with fewer channels it has others.
        sizes: function from numbers of channels to the operators' shapes.
        dense: the file's bytes.
        notes: list of str, what is not as it should be.
    """

    def __init__(self, model, format, free_dim=None, input_shape=None):
        if not isinstance(model, ChannelGraph):
            model = ChannelGraph(functional_form(model), free_dim, input_shape)
        self._graph, self.model, self.input_shape = model, model.model, model.input_shape
        self._groups, self._format, self.notes = find_groups(model), format, []
        self._fingerprint = _fingerprint(model)
        self.names = _names(self._groups)
        self.counts = np.array([group.channels for group in self._groups], int)
        self.free = np.array([not group.frozen for group in self._groups], bool)
        self.operators, self._flops = [], None
        with scratch() as folder:
            self._read(folder)

    def _read(self, folder):
        """Read the operators of the dense model and of some cuts, which say what follows what."""
        path = folder / f"model.{self._format}"

        def read(model):
            exported(model, path, self._format, self.input_shape)
            return operators_of(path)

        dense = read(self.model)
        self.dense = path.read_bytes()
        wide = self.free & (self.counts > _SMALL)
        for free in [self.free, wide] if (wide != self.free).any() else [self.free]:
            kept = probes(self.counts, free) if free.any() else self.counts[None][:0]
            files = [dense, *(read(self.cut(numbers)) for numbers in kept)]
            if all(_outlines(file) == _outlines(dense) for file in files):
                break
        else:
            self._use_flops()
            return
        self.operators = dense
        self.sizes = SizeMap([[one.shapes for one in file] for file in files], self.counts, kept)
        self._note(kept, free)

    def _note(self, kept, free):
        whole = [name for name, is_whole in zip(self.names, free != self.free) if is_whole]
        if whole:
            self.notes.append(
                "with fewer channels in these small groups the file has other operators, so that "
                f"their channels count as all there: {', '.join(whole[:10])}"
            )
        same = alike(self.counts, free, kept).sum()
        if same:
            self.notes.append(
                f"{same} groups of channels could not be told from others, so that sizes of "
                "tensors may be wrong"
            )
        if self.sizes.approximate:
            self.notes.append(
                f"{self.sizes.approximate} sizes of tensors follow no groups of channels exactly"
            )

    def includes(self, graph, groups):
        """Whether the groups of a `ChannelGraph` are those of the model, or of a cut of it."""
        if _names(groups) != self.names or _fingerprint(graph) != self._fingerprint:
            return False
        counts = np.array([group.channels for group in groups], int)
        return bool((np.where(self.free, counts <= self.counts, counts == self.counts)).all())

    def cut(self, kept):
        """Return the model with `kept[g]` channels in the g-th group, whichever these are."""
        gone = [g.roots[: g.channels - n] for g, n in zip(self._groups, kept)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is said is said of the model that is wanted.
            return cut(self._graph, np.concatenate([np.zeros(0, int), *gone]))

    def _use_flops(self):
        note = (
            f"with fewer channels the file of {self.model.name!r} has other operators than "
            "before, so that its latency is estimated by FLOPs"
        )
        warn_user(f"{note[0].upper()}{note[1:]}.")
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


def _names(groups):
    """The groups' names, without those of custom layers, which a cut may have opened."""
    return [group.name.rsplit("/")[-1] for group in groups]


def _fingerprint(graph):
    """What stays the same whichever channels leave, as a list.

    Of weights the sizes along axes without channels, and how often each is multiplied: that
    follows from strides and the sizes of images.
    """
    layers = []
    for record in graph.layers.values():
        variables = [
            [0 if axis in use.axes else size for axis, size in enumerate(use.variable.shape)]
            + [use.applications]
            for use in record.uses.values()
            if use.variable is not None
        ]
        layers.append((record.name.rsplit("/")[-1], type(record.layer).__name__, variables))
    return [list(graph.input_shape.values()), layers]
