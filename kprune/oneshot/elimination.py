"""Which channels the layers that take them in can do without.

A layer's output is the sum of what each of its inputs adds to it. Without some of them, and with
the others' weights updated to make up for them, it changes by the loss of Optimal Brain Surgeon
(Hassibi & Stork, 1993), here of all the inputs that one channel has: `tr(W_c.T (H^-1)_cc^-1 W_c)`.
The channel of the lowest loss goes, the inverse and the weights are those without it, and so on, as
of structures of a layer in ZipLM (Kurtic et al., 2023); where several layers take the channels, as
after a residual sum, the shares of their outputs are added up. So of two channels that can replace
each other one goes and the other stays, whatever their size.
"""

import numpy as np

_ROUNDS = 128  # Of many channels, some go at a time.


def eliminate(consumers, channels, count):
    """Return which channels stay, a bool array [channels].

    Args:
        consumers: list of `Consumer`s; they are used up.
        channels: int, how many there are.
        count: int, how many go.
    """
    kept = np.ones(channels, bool)
    for left in range(min(count, _ROUNDS), 0, -1):
        missing = count - np.count_nonzero(~kept)
        losses = sum(consumer.losses() for consumer in consumers)
        gone = np.argsort(np.where(kept, losses, np.inf), kind="stable")[: -(-missing // left)]
        kept[gone] = False
        for consumer in consumers:
            consumer.remove(gone)
    return kept


class Consumer:
    """A layer that takes channels in, as they become fewer.

    Args:
        problem: the `Problem` of its kernel.
        index: int array [groups, d], the channel of each input; -1 for others, and for a bias.
        channels: int.
        updates: whether the weights of the channels that stay will make up for the others.
    """

    def __init__(self, problem, index, channels, updates=True):
        moment = problem.moment.astype("float64")
        d = moment.shape[1]
        if not updates:  # As if inputs had nothing to do with each other.
            moment = moment * np.eye(d)
        self._energy = problem.energy
        # One more input, of no channel, fills the places of channels with fewer inputs.
        self._matrix = np.pad(problem.matrix.astype("float64"), [(0, 0), (0, 1), (0, 0)])
        self._inverse = np.pad(np.linalg.inv(moment), [(0, 0), (0, 1), (0, 1)])
        self._places = [_places(one, channels, d) for one in index]

    def losses(self):
        """Return the share of the output's squares that each channel takes along, [channels]."""
        total = 0
        for matrix, inverse, places in zip(self._matrix, self._inverse, self._places):
            blocks, rows = inverse[places[:, :, None], places[:, None, :]], matrix[places]
            # Of places that only fill, and inputs that are gone, the inverse is empty.
            empty = np.diagonal(blocks, axis1=1, axis2=2) == 0
            blocks = blocks + empty[:, :, None] * np.eye(places.shape[1])
            total = total + (rows * np.linalg.solve(blocks, rows)).sum((1, 2))
        return total / self._energy

    def remove(self, gone):
        """Take channels out, and let the others make up for them."""
        for matrix, inverse, places in zip(self._matrix, self._inverse, self._places):
            own = np.unique(places[gone])
            own = own[own < len(matrix) - 1]
            across = inverse[:, own]
            share = np.linalg.solve(inverse[np.ix_(own, own)], across.T)
            matrix -= share.T @ matrix[own]
            inverse -= across @ share
            matrix[own], inverse[own], inverse[:, own] = 0, 0, 0


def _places(index, channels, d):
    """For each channel the places of its inputs, [channels, most]; d where it has fewer."""
    counts = np.bincount(index[index >= 0], minlength=channels)
    order = np.argsort(index, kind="stable")[np.count_nonzero(index < 0) :]
    places = np.full((channels, max(counts.max(initial=0), 1)), d)
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    places[index[order], column] = order
    return places
