"""Labels: integers that name channels, and the sets of labels that are coupled."""

import contextlib

import numpy as np

FIXED = -1  # The label of a position that cannot be removed.


class Labels:
    """A union-find over channel labels, with the reasons why some are frozen."""

    def __init__(self):
        self._parent = np.zeros(0, np.int64)
        self._frozen, self._inexact, self._uncounted = [], [], set()

    @contextlib.contextmanager
    def attempt(self):
        """Whatever was said meanwhile is taken back on an exception."""
        before = self._parent.copy(), list(self._frozen), list(self._inexact), set(self._uncounted)
        try:
            yield
        except Exception:
            self._parent, self._frozen, self._inexact, self._uncounted = before
            raise

    def new(self, n, counted=True):
        """Return `n` fresh labels; `counted` says whether their number is one to round."""
        labels = np.arange(len(self._parent), len(self._parent) + n)
        if not counted:
            self._uncounted.update(labels.tolist())
        self._parent = np.concatenate([self._parent, labels])
        return labels

    def uncount(self, labels):
        """Say that labels are of things whose number is not one to round, such as heads."""
        self._uncounted.update(labels[labels != FIXED].tolist())

    def find(self, labels):
        """Return the representative of each label's set; FIXED stays FIXED."""
        labels = np.asarray(labels)
        while True:
            grandparent = self._parent[self._parent]
            if np.array_equal(grandparent, self._parent):
                return np.where(labels == FIXED, FIXED, self._parent[labels])
            self._parent = grandparent

    def union(self, first, second, reason="tied to channels that stay"):
        """Tie labels pairwise; one that meets FIXED is frozen.

        Args:
            first: int array [n].
            second: int array [n].
            reason: str, why a label that meets FIXED cannot go.
        """
        first, second = np.asarray(first), np.asarray(second)
        fixed = (first == FIXED) | (second == FIXED)
        if fixed.any():
            self.freeze(np.maximum(first, second)[fixed], reason)
        for a, b in zip(first[~fixed], second[~fixed]):
            a, b = self._root(a), self._root(b)
            self._parent[max(a, b)] = min(a, b)

    def tie_rows(self, labels):
        """Tie the rows of labels [rows, n] column by column; return the first row."""
        self.union(np.tile(labels[0], len(labels) - 1), labels[1:].ravel())
        return labels[0]

    def freeze(self, labels, reason):
        """Say that these labels' channels must stay, and why."""
        labels = np.unique(labels[labels != FIXED])
        if len(labels):
            self._frozen.append((labels, reason))

    def mark_inexact(self, labels, reason):
        """Say that without these channels a layer computes something else, and why."""
        self._inexact.append((labels[labels != FIXED], reason))

    def frozen(self):
        """Return a dict from each frozen set's representative to its list of reasons."""
        return self._reasons(self._frozen)

    def inexact(self):
        """Return a dict from each inexact set's representative to its list of reasons."""
        return self._reasons(self._inexact)

    def uncounted(self):
        """Return the representatives of sets whose number need not be rounded."""
        return set(self.find(np.array(sorted(self._uncounted), np.int64)).tolist())

    def _reasons(self, found):
        reasons = {}
        for labels, reason in found:
            for root in np.unique(self.find(labels)).tolist():
                known = reasons.setdefault(root, [])
                if reason not in known:
                    known.append(reason)
        return reasons

    def _root(self, label):
        while self._parent[label] != label:
            label = self._parent[label]
        return label
