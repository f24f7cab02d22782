"""The times of a file's operators at any shapes: measured, or between what was measured."""

import numpy as np

from kprune.search.latency.cache import Cache

_METHOD = 1  # Another number for another way of timing: what is on disk is measured again.


class Times:
    """Times of operators, by a timer, and by what is on disk.

    Args:
        timer: a `LocalTimer`, or what has its methods.
        cache: a `Cache`; None to keep nothing.
    """

    def __init__(self, timer, cache=None):
        self._timer, self._cache = timer, cache
        self._known = {}  # From keys to seconds, or None.
        self._points = {}  # From an operator of the dense file to {work: seconds}.
        self._between = {}  # What `at` has returned.

    @classmethod
    def kept(cls, timer, folder=None):
        """Return times that are kept on disk."""
        return cls(timer, Cache([_METHOD, *timer.place], folder))

    def measure(self, requests, show=lambda text: None):
        """Measure the operators of `(SingleOperator, shapes)` that are not known yet."""
        wanted, requests = {}, list(requests)
        for operator, shapes in requests:
            key = operator.key(shapes)
            if key not in self._known:
                found, seconds = self._cache.get(key) if self._cache else (False, None)
                if found:
                    self._known[key] = seconds
                else:
                    wanted[key] = operator, shapes
        if wanted:
            done = iter(range(1, len(wanted) + 1))
            show(f"timing {len(wanted)} operators …")
            seconds = self._timer.operators(
                list(wanted.values()),
                lambda: show(f"timing operators: {next(done)}/{len(wanted)} …"),
            )
            found = dict(zip(wanted, seconds))
            self._known |= found
            if self._cache:  # Without those that were killed, which may run another time.
                self._cache.update(
                    {
                        key: seconds
                        for key, seconds in found.items()
                        if seconds is not None or not _has_file(*wanted[key])
                    }
                )
        for operator, shapes in requests:
            seconds = self._known[operator.key(shapes)]
            if seconds is not None:
                points = self._points.setdefault((operator.kind, operator.shapes), {})
                points[operator.work(shapes)] = seconds
        self._between.clear()

    def at(self, operator, shapes):
        """Return an operator's seconds: as measured, or by its work between what was; or None."""
        key = id(operator), shapes
        if key not in self._between:
            seconds = self._known.get(operator.key(shapes))
            self._between[key] = self._by_work(operator, shapes) if seconds is None else seconds
        return self._between[key]

    def _by_work(self, operator, shapes):
        points = self._points.get((operator.kind, operator.shapes))
        if not points:
            return None
        work, known = operator.work(shapes), np.array(sorted(points))
        seconds = np.array([points[one] for one in known])
        if work < known[0]:
            return float(seconds[0] * work / max(known[0], 1))
        if work > known[-1]:
            return float(seconds[-1] * work / max(known[-1], 1))
        return float(np.interp(work, known, seconds))


def _has_file(operator, shapes):
    try:
        operator.file(shapes)
    except Exception:  # Of a kind that is not known here.
        return False
    return True
