"""`prune_channels(latency=...)`: the room below asks for it here."""

from kprune._system.warn import warn_user
from kprune.search.latency.model import LatencyModel
from kprune.search.latency.timers import check_target, check_threads
from kprune.structured import latency


class LatencyBudget:
    """The latency of a model's cuts, as `kprune.structured.latency.register` asks for it.

    Args:
        times: a `LatencyModel` of the model, or of the one that it was cut from.
        graph: the model's `ChannelGraph`.
        groups: its `ChannelGroup`s.
    """

    def __init__(self, times, graph, groups):
        self._times, self._model, self._file = times, graph.model, None
        self._counts = times.channels_of(graph, groups)
        if times.elsewhere:
            warn_user(
                "The latency is predicted by a device's times of single operators; the smaller "
                "model's file was not timed as a whole. Export both models, and time them there "
                "with scripts/benchmark_device.py."
            )

    @property
    def block(self):
        """How many channels the runtime computes at once."""
        return self._times.block

    @property
    def whole(self):
        """The seconds of the model as it is."""
        return self._times.measure(self._counts)

    @property
    def floor(self):
        """The share of the whole model's seconds that a file of next to nothing takes."""
        return self._times.floor * self._times.seconds / self.whole

    def estimate(self, kept):
        """The seconds with these numbers of channels, without measuring."""
        return self._times.estimate(kept)

    def measure(self, kept):
        """The seconds with these numbers of channels, their operators timed."""
        return self._times.measure(kept)

    def share_of(self, small, kept):
        """The measured share of the model's latency that a smaller one has, or None."""
        expected = self._times.estimate(kept) / self._times.estimate(self._counts)
        if self._file is None and not self._times.elsewhere:
            self._file = self._times.file_of(self._model)
        reached = self._times.share_of(small, self._file)
        self._times.history.append((expected, reached))
        return reached


def _check(target, threads, measured, latency_model):
    if latency_model is None:
        check_target(target, measured)
        check_threads(1 if threads is None else threads)
        return
    if not isinstance(latency_model, LatencyModel):
        raise TypeError(
            f"`latency_model` must be a kprune.search.LatencyModel. Received: {latency_model!r}"
        )
    given = [name for name, value in (("target", target), ("threads", threads),
                                      ("measured", measured)) if value is not None]  # fmt: skip
    if given:
        raise ValueError(
            f"A `latency_model` has its target, threads and times: give no {' or '.join(given)}."
        )


def _start(model, graph, groups, target, threads, measured, latency_model):
    times = latency_model or LatencyModel(graph, target, threads or 1, measured)
    return LatencyBudget(times, graph, groups)


latency.register(_check, _start)
