"""Where each channel goes in an operation without weights, found by running it.

Values are changed in half of the channels at a time, along the bits of their numbers:
an output that reacts to exactly one side of every bit depends on exactly one channel,
and the sides spell its number. Then the answer is put to the test: half of the channels
are dropped from the inputs, and the operation must return what it returned before,
less the channels that the answer says. So nothing is assumed of an operation, and
what mixes channels, or names their number in its arguments, is found out.
"""

import keras
import numpy as np

from kprune.graphs.identity import identity_of
from kprune.structured.labels import FIXED, Labels
from kprune.structured.operations import call, resized
from kprune.structured.reasons import Unsafe
from kprune.structured.tensors import drop

_NONE, _MIXED = -1, -2
_SMALL = 8  # Axes without channels are cut to this length where the operation allows it.
_LARGEST_RUN = 1 << 24  # Elements of one input in one run.
_CHANGES = ((1.5, 8.0), (-8.0, -1.5), (0.0, 0.0))  # What values of 0.25 to 0.75 change to.
_FILLS = (0, 1, None, None, None)  # Of bools and integers; None for random ones.
_FEW = 8  # So many channels are dropped one by one.
_DROPS = 4  # Random halves of more channels are dropped so often.
_NEAR_ZERO = 1e-2
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}


class Prober:
    """Follows labels through operations without weights; remembers equal operations.

    Two operations are equal only if all that decides what they compute is: see
    `identity_of`.
    """

    def __init__(self, labels):
        self._labels = labels
        self._known, self._checked = {}, set()

    def follow(self, operation, arguments, inputs, outputs, axis=None):
        """Return the output `Tensor`s with their channels, tying labels that meet.

        Args:
            operation: a `keras.Operation` without weights.
            arguments: the node's `SymbolicArguments`.
            inputs: list of `Tensor`s, for `arguments.keras_tensors`.
            outputs: list of `Tensor`s without channels.
            axis: int below 0, the axis of the outputs to take for that of the channels if more
                than one may be, as where a shape is split; by default what ties the fewest.

        Raises:
            Unsafe: channels mix, their number is in the operation's arguments, or the
                operation raised whatever exception while it was tried out.
        """
        try:
            own = [tensor.batch_first() for tensor in outputs]
            batches = [[t.batch for t in inputs], [t.batch for t in outputs]]
            inputs = [tensor.batch_first() for tensor in inputs]
            found = self._follow(operation, arguments, inputs, own, axis, batches)
            return [
                output.with_channels(output.own_axis(one.axis), one.labels)
                for output, one in zip(outputs, found)
            ]
        except Unsafe:
            raise
        except Exception as error:
            raise Unsafe.because("could not be tried out", error) from error

    def _follow(self, operation, arguments, inputs, outputs, axis, batches):
        # Seen in training alone, which is not tried out.
        if any(n not in (None, 1) for n in getattr(operation, "noise_shape", None) or ()):
            raise Unsafe("its noise_shape may name the number of channels")
        inputs = [self._with_several(tensor) for tensor in inputs]
        if all(tensor.axis is None for tensor in inputs):
            return outputs
        if any(isinstance(a, keras.Variable) for a in _leaves(arguments)):
            raise Unsafe("takes a variable that may change")
        run = _Run(operation, arguments, inputs, outputs, axis, batches)
        key = run.key()
        if key not in self._known:
            self._known[key] = run.relations(), run.full
        relations, run.full = self._known[key]
        followed = [
            self._with_labels(output, relation, run.numbers)
            for output, relation in zip(outputs, relations)
        ]
        self._check(run, followed, key)
        return followed

    def _with_several(self, tensor):
        """The tensor; without channels if it has but one, which must stay."""
        if tensor.axis is None or len(np.unique(tensor.labels)) > 1:
            return tensor
        self._labels.freeze(tensor.labels, "only one channel")
        return tensor.with_channels(None, None)

    def _with_labels(self, output, relation, numbers):
        """Tie what meets in each position of the output's axis; label it so."""
        if relation is None:
            return output
        axis, pairs = relation
        positions = np.concatenate([pair[1] for pair in pairs])
        met = np.concatenate([numbers[source][codes] for source, _, codes in pairs])
        labels = np.full(output.shape[axis], FIXED)
        labels[positions[met != FIXED]] = met[met != FIXED]
        self._labels.union(labels[positions], met)
        return output.with_channels(axis, labels)

    def _check(self, run, followed, key):
        """Drop half of the channels: the operation must return the same, less those."""
        roots = self._roots(run.inputs)
        known, codes = np.unique(
            np.concatenate([r for r in roots if r is not None]), return_inverse=True
        )
        key = (key, codes.tobytes(), FIXED in known)
        if key in self._checked:
            return
        known = known[known != FIXED]
        if len(known) < 2:
            raise Unsafe("has only one channel")
        roots_out = self._roots(followed)
        for gone in _drops(known):
            kept_in = [_kept(*pair, gone) for pair in zip(run.inputs, roots)]
            kept_out = [_kept(*pair, gone) for pair in zip(followed, roots_out)]
            if all(kept is None or kept.any() for _, kept in kept_in + kept_out):
                run.check_dropped(kept_in, kept_out)
        self._checked.add(key)

    def _roots(self, tensors):
        return [None if t.axis is None else self._labels.find(t.labels) for t in tensors]


class _Run:
    """One operation, ready to be run on values of our own."""

    def __init__(self, operation, arguments, inputs, outputs, axis, batches):
        self.operation, self.arguments, self._batches = operation, arguments, batches
        self.inputs, self.outputs, self.axis = inputs, outputs, axis
        self.numbers, self.codes = {}, {}
        for i, tensor in enumerate(inputs):
            if tensor.axis is not None:
                self.numbers[i], self.codes[i] = np.unique(tensor.labels, return_inverse=True)
        self.full = False  # Whether only the tensors' real lengths will do.

    def key(self):
        """What the outcome depends on."""
        known = {id(t): i for i, t in enumerate(self.arguments.keras_tensors)}
        plain = self.arguments.convert(lambda a: _Place(known[id(a)]) if id(a) in known else a)
        return (
            identity_of(self.operation),
            identity_of(plain),
            (self.axis, str(self._batches)),
            *((t.shape, t.dtype, t.axis) for t in (*self.inputs, *self.outputs)),
            *((i, codes.tobytes()) for i, codes in self.codes.items()),
        )

    def relations(self):
        """Say for each output `(axis, [(input, positions, codes)])`, or None without channels."""
        try:
            return self._relations()
        except Unsafe:
            raise
        except Exception:
            self.full = True  # Not at these lengths; the real ones decide.
            return self._relations()

    def _relations(self):
        found = {i: self._dependencies(i) for i in self.codes}
        relations = []
        for o, output in enumerate(self.outputs):
            depends = {i: arrays[o] for i, arrays in found.items()}
            for array in depends.values():
                if array.size == 0:
                    raise ValueError("nothing is left at these lengths")
                if (array == _MIXED).any():
                    raise Unsafe("mixes channels")
            counts = {i: len(n) for i, n in self.numbers.items()}
            relation = _along_one_axis(depends, counts, self.axis)
            if relation is not None:
                axis = relation[0]
                if next(iter(depends.values())).shape[axis] != output.shape[axis]:
                    raise ValueError("another length than the real one")
            relations.append(relation)
        return relations

    def _dependencies(self, i):
        """For each output, which code of input i each element depends on."""
        codes, tensor = self.codes[i], self.inputs[i]
        bits = max(1, int(len(self.numbers[i]) - 1).bit_length())
        sides = [((codes >> bit) & 1) == side for bit in range(bits) for side in (0, 1)]
        floats = all(map(_is_float, self.inputs))
        random = np.random.default_rng(0)
        reactions = None
        for fill in (None,) if floats else _FILLS:
            values = self._values(random, fill=fill)
            for low, high in _CHANGES:
                changed = _changed(random, values[i][0], low, high)
                new = self._reactions(values, i, changed, sides, tensor.axis)
                reactions = new if reactions is None else [a | b for a, b in zip(reactions, new)]
        return [_decoded(r.reshape(bits, 2, *r.shape[1:])) for r in reactions]

    def _reactions(self, values, i, changed, sides, axis):
        """Which elements of each output change when one side's channels do: [sides, ...]."""
        base = self._outputs(values)
        length = max(1, _LARGEST_RUN // changed.size)
        found = [[] for _ in base]
        for start in range(0, len(sides), length):
            part = sides[start : start + length]
            batch = [np.repeat(v, len(part), axis=0) for v in values]
            spread = [1] * changed.ndim
            spread[axis] = -1
            for row, side in enumerate(part):
                batch[i][row] = np.where(side.reshape(spread), changed, batch[i][row])
            for o, output in enumerate(self._outputs(batch)):
                found[o].append(~_close(output, base[o]))
        return [np.concatenate(parts) for parts in found]

    def check_dropped(self, kept_in, kept_out):
        """Raise `Unsafe` unless the operation does the same on fewer channels."""
        values = self._values(np.random.default_rng(2), batch=2)
        expected = [drop(v, *kept) for v, kept in zip(self._outputs(values), kept_out)]
        fewer = [drop(v, *kept) for v, kept in zip(values, kept_in)]
        reason = "does not do the same on fewer channels: its arguments may name their number"
        if any(t.axis is None and _may_meet(t, self.inputs) for t in self.inputs):
            reason = "joins them with channels that stay"
        try:
            got = self._outputs(fewer, kept_in, kept_out)
        except Exception as error:
            raise Unsafe(reason) from error
        for a, b in zip(got, expected):
            if a.shape != b.shape or not _close(a, b).all():
                raise Unsafe(reason)

    def _values(self, random, batch=1, fill=None):
        """Random values for every tensor argument; bools and integers all `fill`, if given."""
        long = {t.shape[t.axis] for t in self.inputs if t.axis is not None}
        values = []
        for tensor in self.inputs:
            shape = tuple(n if self.full or n in long else min(n, _SMALL) for n in tensor.shape[1:])
            if _is_float(tensor):
                value = random.uniform(0.25, 0.75, (batch, *shape))
            elif fill is None:
                value = random.integers(0, 2, (batch, *shape))
            else:
                value = np.full((batch, *shape), fill)
            values.append(value.astype(_numpy_type(tensor.dtype)))
        return values

    def _outputs(self, values, kept_in=None, kept_out=None):
        tensors = [
            keras.ops.convert_to_tensor(np.moveaxis(v, 0, batch), dtype=t.dtype)
            for v, t, batch in zip(values, self.inputs, self._batches[0])
        ]
        known = {id(t): v for t, v in zip(self.arguments.keras_tensors, tensors)}
        args, kwargs = self.arguments.fill_in(known)
        operation = self.operation
        if kept_in is not None:
            kept_in, kept_out = (
                [(_with_batch(axis, kept, len(t.shape), batch)) for (axis, kept), t, batch in each]
                for each in (
                    zip(kept_in, self.inputs, self._batches[0]),
                    zip(kept_out, self.outputs, self._batches[1]),
                )
            )
            operation, args, kwargs = resized(operation, list(args), kwargs, kept_in, kept_out)
        outputs = call(operation, args, kwargs)
        outputs = [np.moveaxis(one, axis, 0) for one, axis in zip(outputs, self._batches[1])]
        if any(output.shape[:1] != values[0].shape[:1] for output in outputs):
            raise Unsafe("changes the batch axis")
        return outputs


def _with_batch(axis, kept, rank, batch):
    """The axis in a tensor whose batch is not its first one."""
    return axis if axis is None or axis + rank > batch else axis - 1, kept


def _may_meet(tensor, others):
    """Whether a tensor without channels is as long as another one along its channels."""
    return any(
        other.axis is not None
        and len(tensor.shape) > -other.axis
        and tensor.shape[other.axis] == other.shape[other.axis]
        for other in others
    )


def _drops(known):
    """Sets of channels to try an operation without."""
    if len(known) <= _FEW:
        return [known[i : i + 1] for i in range(len(known))]
    random, half = np.random.default_rng(len(known)), len(known) // 2
    drops = [random.choice(known, half, replace=False) for _ in range(_DROPS)]
    return [*drops, known[:half], known[half:], known[:1], known[-1:]]


def _is_float(tensor):
    return keras.backend.is_float_dtype(tensor.dtype)


def _changed(random, values, low, high):
    """Other values than those of an array, of its type."""
    if values.dtype == bool:
        return ~values
    if values.dtype.kind in "iu":
        return values + random.integers(1, 9, values.shape).astype(values.dtype)
    return random.uniform(low, high, values.shape).astype(values.dtype)


class _Place(int):
    """The number of a tensor, where it stands among an operation's arguments."""


def _leaves(arguments):
    return keras.tree.flatten((arguments.args, arguments.kwargs))


def _kept(tensor, roots, gone):
    return tensor.axis, None if roots is None else ~np.isin(roots, gone)


def _close(values, others):
    """Where values are equal but for rounding, which may depend on the place in a batch."""
    tolerance = _TOLERANCE.get(others.dtype.name, 1e-4)
    return np.isclose(
        values.astype("float32"), others.astype("float32"), tolerance, _NEAR_ZERO * tolerance
    )


def _numpy_type(dtype):
    return "float32" if dtype == "bfloat16" else dtype


def _decoded(reactions):
    """Turn reactions [bits, 2, ...] into codes: one channel's, `_NONE` or `_MIXED`."""
    none = ~reactions.any(axis=(0, 1))
    both = reactions.all(axis=1).any(axis=0)
    neither = (~reactions.any(axis=1)).any(axis=0)
    weights = (1 << np.arange(len(reactions))).reshape(-1, *[1] * (reactions.ndim - 2))
    codes = (reactions[:, 1] * weights).sum(axis=0)
    return np.where(none, _NONE, np.where(both | neither, _MIXED, codes))


def _along_one_axis(depends, numbers, wanted=None):
    """Find the axis whose positions are channels, and which meet in each position.

    Args:
        depends: dict from an input to an int array, the code each output element has of it.
        numbers: dict from an input to how many codes it has.
        wanted: int below 0, an axis to take if it will do.

    Returns:
        `(axis, [(input, positions, codes)])`, or None when nothing depends on a channel.
    """
    shape = next(iter(depends.values())).shape
    if all((array == _NONE).all() for array in depends.values()):
        return None
    best = (1, None, None)
    axes = range(-1, -len(shape) - 1, -1)
    for axis in axes if wanted is None else sorted(axes, key=lambda axis: axis != wanted):
        pairs, strict = [], True
        for source, array in depends.items():
            rows = np.moveaxis(array, axis, 0).reshape(shape[axis], -1)
            base = numbers[source] + 1
            flat = np.unique(np.arange(len(rows))[:, None] * base + rows + 1)
            positions, codes = np.divmod(flat, base)
            positions, codes = positions[codes > 0], codes[codes > 0] - 1
            strict &= len(np.unique(positions)) == len(positions)
            pairs.append((source, positions, codes))
        single = strict and len(pairs) == 1
        classes = len(np.unique(pairs[0][2])) if single else _classes(pairs, numbers)
        if classes > best[0]:
            best = (classes, axis, pairs)
        if classes > 1 and (strict or axis == wanted):
            break
    if best[1] is None:
        raise Unsafe("leaves no axis of channels")
    return best[1], best[2]


def _classes(pairs, numbers):
    """How many sets of codes remain when those that meet in a position are tied."""
    labels, offsets = Labels(), {}
    for source, _, _ in pairs:
        offsets[source] = labels.new(numbers[source])
    if not pairs:
        return 0
    seen = np.concatenate([offsets[source][codes] for source, _, codes in pairs])
    positions = np.concatenate([positions for _, positions, _ in pairs])
    _, first, position = np.unique(positions, return_index=True, return_inverse=True)
    labels.union(seen[first][position], seen)
    return len(np.unique(labels.find(seen)))
