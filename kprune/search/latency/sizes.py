"""Which sizes of a file's tensors follow which groups of channels."""

import dataclasses
import itertools

import numpy as np

_TRIES = 200
_MOST = 6  # Probes: each is an export.


@dataclasses.dataclass
class _Term:
    """`constant + weights @ kept`, or with a product, `factor * kept[i] * kept[j]`."""

    constant: float
    weights: np.ndarray
    product: tuple | None = None  # (factor, i, j)
    exact: bool = True


def probes(counts, free, seed=0):
    """Choose numbers of channels to cut a model to, by which its groups can be told apart.

    Args:
        counts: int array, the channels of each group.
        free: bool array, which groups can lose any.
        seed: int.

    Returns:
        Int array [probes, groups]: two; or more, where groups are alike in fewer.
    """
    rng, best = np.random.default_rng(seed), None
    low = np.maximum(1, np.ceil(counts / 3).astype(int))
    for number in range(2, _MOST + 1):

        def drawn(number=number):
            return rng.integers(low, counts, (number, len(counts)), endpoint=True)

        for _ in range(_TRIES):
            kept = np.where(free, drawn(), counts)
            again = alike(counts, free, kept)
            kept[:, again] = drawn()[:, again]
            judged = -alike(counts, free, kept).sum(), _apart(kept[:, free] / counts[free])
            if best is None or judged > best[0]:
                best = judged, kept
        if best[0][0] == 0:
            break
    return best[1]


def alike(counts, free, kept):
    """Return which free groups the probes tell neither from one before nor from a constant."""
    seen, found = {(1.0,) * len(kept)}, np.zeros(len(counts), bool)
    for g in np.flatnonzero(free & (counts > 1)):
        column = tuple((kept[:, g] / counts[g]).tolist())
        found[g] = column in seen
        seen.add(column)
    return found


def _apart(shares):
    """How far the two most similar columns are from each other."""
    if shares.shape[1] < 2:
        return 1.0
    away = np.abs(shares[:, :, None] - shares[:, None, :]).max(axis=0)
    return away[np.triu_indices(shares.shape[1], 1)].min()


class SizeMap:
    """The sizes of a file's tensors as a function of how many channels each group keeps.

    A size is a multiple of one group's number, or of two multiplied, as heads by what each has;
    or a sum of such, as behind a concatenation. What is neither is approximated.

    Args:
        shapes: list, for the dense file and each probe: a list of operators' shapes.
        counts: int array, the channels of each group of the dense model.
        kept: int array [probes, groups].

    Attributes:
        approximate: how many different sizes there are that no group explains.
    """

    def __init__(self, shapes, counts, kept):
        self._layout = [[len(shape) for shape in operator] for operator in shapes[0]]
        table = np.array([_flat(one) for one in shapes]).reshape(len(shapes), -1)
        self._numbers = np.vstack([counts, kept])
        self._free = [g for g in range(len(counts)) if (kept[:, g] != counts[g]).any()]
        self._known = {}
        self._singles = {}
        for g in self._free:
            self._singles.setdefault(self._direction(self._numbers[:, g]), g)
        position, rows = 0, []
        for operator in shapes[0]:
            length = sum(map(len, operator))
            self._concatenated(operator, table, position)
            rows += [
                self._term(tuple(table[:, i].tolist())) for i in range(position, position + length)
            ]
            position += length
        self._constant = np.array([term.constant for term in rows])
        self._weights = np.array([term.weights for term in rows]).reshape(len(rows), len(counts))
        products = [(i, *term.product) for i, term in enumerate(rows) if term.product]
        self._products = [np.array(column) for column in zip(*products)] if products else None
        self.approximate = sum(not term.exact for term in self._known.values())
        self._least = np.minimum(1, table.min(axis=0))

    def __call__(self, kept):
        """Return each operator's shapes, as tuples of tuples, with so many channels kept."""
        sizes = self._constant + self._weights @ np.asarray(kept, float)
        if self._products is not None:
            where, factor, i, j = self._products
            sizes[where] += factor * np.asarray(kept)[i] * np.asarray(kept)[j]
        flat = iter(np.maximum(self._least, np.round(sizes)).astype(int).tolist())
        return [
            tuple(tuple(itertools.islice(flat, rank)) for rank in operator)
            for operator in self._layout
        ]

    def _direction(self, numbers):
        return tuple(np.round(numbers / numbers[0], 9).tolist())

    def _plain(self, constant=0.0, weights=None, **options):
        zeros = np.zeros(self._numbers.shape[1])
        return _Term(constant, zeros if weights is None else weights, **options)

    def _term(self, sizes):
        if sizes not in self._known:
            self._known[sizes] = self._found(np.array(sizes, float))
        return self._known[sizes]

    def _found(self, sizes):
        if (sizes == sizes[0]).all():
            return self._plain(sizes[0])
        for rule in (self._multiple, self._of_known, self._product, self._shifted):
            term = rule(sizes)
            if term is not None:
                return term
        return self._approximated(sizes)

    def _multiple(self, sizes):
        """So many times one group's channels."""
        group = self._singles.get(self._direction(sizes)) if sizes[0] else None
        if group is None:
            return None
        weights = np.zeros(self._numbers.shape[1])
        weights[group] = sizes[0] / self._numbers[0, group]
        return self._plain(weights=weights)

    def _of_known(self, sizes):
        """A multiple of a size that is known, or the sum of two."""
        for other, term in list(self._known.items()):
            if term.exact and other[0] and other != tuple([other[0]] * len(other)):
                factor = sizes[0] / other[0]
                if factor != 1 and (np.array(other) * factor == sizes).all():
                    return self._sum([(factor, term)])
        changing = [item for item in self._known.items() if item[1].exact and len(set(item[0])) > 1]
        for other, term in changing:
            rest = tuple((sizes - other).astype(int).tolist())
            found = self._known.get(rest) if min(rest) > 0 else None
            if found is None and min(rest) > 0:
                found = self._multiple(np.array(rest, float))
            if found is not None and found.exact and not (term.product and found.product):
                return self._sum([(1, term), (1, found)])
        return None

    def _sum(self, parts):
        products = [(f * t.product[0], *t.product[1:]) for f, t in parts if t.product]
        return _Term(
            sum(factor * term.constant for factor, term in parts),
            sum(factor * term.weights for factor, term in parts),
            products[0] if products else None,
        )

    def _product(self, sizes):
        """So many times one group's channels times another's."""
        for i, j in itertools.combinations(self._free, 2):
            both = self._numbers[:, i] * self._numbers[:, j]
            factor = sizes[0] / both[0]
            if np.allclose(both * factor, sizes):
                return self._plain(product=(factor, i, j))
        return None

    def _shifted(self, sizes):
        """A constant and a multiple of one group's channels."""
        for g in self._free:
            numbers = self._numbers[:, g].astype(float)
            gone, lost = numbers[0] - numbers[1:], sizes[0] - sizes[1:]
            factor = lost[0] / gone[0] if gone[0] else 0.0
            whole = factor and factor == round(factor) and np.array_equal(gone * factor, lost)
            if whole and (factor < 0 or factor * numbers[0] <= sizes[0]):
                weights = np.zeros(self._numbers.shape[1])
                weights[g] = factor
                return self._plain(sizes[0] - factor * numbers[0], weights)
        return None

    def _approximated(self, sizes):
        """The smallest weights of all groups with which the sizes come out."""
        gone = (self._numbers[0] - self._numbers[1:]).astype(float)
        weights = np.linalg.lstsq(gone, sizes[0] - sizes[1:], rcond=None)[0]
        return self._plain(sizes[0] - weights @ self._numbers[0], weights, exact=False)

    def _concatenated(self, operator, table, position):
        """Note what an operator's last tensor has along an axis where it is a sum of the others."""
        ranks = [len(shape) for shape in operator]
        starts = position + np.concatenate([[0], np.cumsum(ranks)])[:-1]
        if len(ranks) < 3 or not ranks[-1]:
            return
        for axis in range(ranks[-1]):
            rows = [table[:, s + axis] for s, r in zip(starts[:-1], ranks[:-1]) if r == ranks[-1]]
            made = table[:, starts[-1] + axis]
            key, changes = tuple(made.tolist()), (made != made[0]).any()
            if len(rows) < 2 or key in self._known or not changes or (sum(rows) != made).any():
                continue
            terms = [self._term(tuple(row.tolist())) for row in rows]
            summed = all(t.exact for t in terms) and sum(bool(t.product) for t in terms) < 2
            if summed and self._multiple(made.astype(float)) is None:
                self._known[key] = self._sum([(1, term) for term in terms])


def _flat(operators):
    return [size for shapes in operators for shape in shapes for size in shape]
