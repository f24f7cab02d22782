"""How fast a file is on a target: measured where it can be, else estimated."""

import importlib.util
import platform

from kprune._system.quiet import quiet
from kprune.measure.benchmark import benchmark
from kprune.measure.web import benchmark_web
from kprune.measure.worker import RUNTIMES
from kprune.runtimes.litertjs import browser
from kprune.runtimes.vela import require_vela, vela_version

_MACHINES = {
    "litert-x86": ("x86_64", "AMD64", "i386", "i686"),
    "litert-arm64": ("arm64", "aarch64"),
    "tflm": (),  # what is timed in it elsewhere says nothing of a microcontroller
}
_ROUNDS = 30


def local_litert():
    """Return the name of LiteRT's target on this machine's processor."""
    arm = platform.machine() in _MACHINES["litert-arm64"]
    return "litert-arm64" if arm else "litert-x86"


class Stopwatch:
    """Times files on a target beside the dense one.

    Args:
        target: a `Target`.
        seed: int, for inputs and the order of visits.

    Attributes:
        measures: whether there is the target's runtime on this machine, or its compiler, which
            tells times of files that no machine here could run.
        real: whether these times are measured.
        about: str, where times come from.
    """

    def __init__(self, target, seed=0):
        self._seed, self._target = seed, target
        self._web = target.runtime == "LiteRT.js"
        self.measures = self.real = True
        self.about = f"measured in {target.runtime} on this machine"
        # A target may be a runtime that reads the files of another.
        self._runtimes = target.name if target.name in RUNTIMES else None
        if target.compressed:
            require_vela()
            self.real = False
            self.about = f"estimated by Vela {vela_version()} for {target.name}, not measured"
        elif self._web:
            try:
                browser.find_browser()
                browser.find_package()
                self.about = "measured in LiteRT.js in a headless browser on this machine"
            except browser.BrowserMissing as error:
                self.measures, missing = False, str(error)
        elif platform.machine() not in _MACHINES.get(target.name, (platform.machine(),)):
            self.measures = False
            missing = f"this machine is {platform.machine()}"
        elif target.name == "openvino" and importlib.util.find_spec("openvino") is None:
            self.measures = False
            missing = 'OpenVINO is not installed: pip install "kprune[openvino]"'
        if not self.measures:
            self.real = False
            self.about = f"estimated from multiply-adds and sparse kernels, as {missing}"

    def compare(self, dense, file):
        """Return `(seconds a run, how many times as fast as the dense file)`.

        Raises:
            ValueError: the file does not run there, or computes something else.
        """
        pair = [dense, file]
        with quiet():
            if self._target.compressed:
                row = benchmark(pair, target=self._target).rows[1]
                return row.median, row.speedup
            if not self._web:
                options = {"rounds": _ROUNDS, "seed": self._seed, "runtimes": self._runtimes}
                row = benchmark(pair, **options).rows[1]
                return row.median, row.speedup
            row = benchmark_web(pair, rounds=_ROUNDS, seed=self._seed).rows[1]
        if row.reason:
            raise ValueError(f"{file.name}: {row.reason}")
        return row.median, row.speedup


def estimated(report, flops, dense_flops):
    """Return how many times as fast as the dense file a file should be.

    Args:
        report: its `ExportReport`, by whose outlooks its zeros are judged.
        flops: int, of its model.
        dense_flops: int, of the dense one.
    """
    gains = list(report.targets.values())
    fewer = dense_flops / flops if flops and dense_flops else 1.0
    return fewer * (gains[0] if len(gains) == 1 else 1.0)
