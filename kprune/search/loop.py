"""The rounds of a search: make, train, export, judge and time a model; keep it, or go back."""

import contextlib
import datetime
import gc
import math
import time
import warnings

import keras
from rich.console import Console

from kprune._system.errors import ExportError, first_line
from kprune.export import NotFasterWarning, export_onnx, export_tflite
from kprune.formats.tflite.codebooks import CODEBOOK
from kprune.graphs.flops import flops as count_flops
from kprune.report import tables
from kprune.search.judge import check_better_than_chance
from kprune.search.plan import plan
from kprune.search.points import Impossible, Point, Step
from kprune.search.stopwatch import estimated

_DENSE = Step(parent=0)
_ANY_ROUNDING = 1.0  # The metric of the file will tell what rounding costs.


class Loop:
    """Runs a plan, round by round.

    Args:
        target: a `Target`.
        goal: a `Goal`.
        journal: a `Journal`.
        maker: a `Maker`.
        judge: a `Judge`.
        stopwatch: a `Stopwatch`.
        examples: `Examples`, or None.
        seed: int.
        rounds: int, the most there may be, besides the dense model's.
        verbose: bool, whether to say on standard error what is done.
    """

    def __init__(
        self, target, goal, journal, maker, judge, stopwatch, examples, seed, rounds, verbose
    ):
        self._target, self._goal, self._journal, self._make = target, goal, journal, maker
        self._judge, self._stopwatch, self._examples = judge, stopwatch, examples
        self._seed, self._rounds = seed, rounds
        self._console = Console(stderr=True, quiet=not verbose, highlight=False)

    def dense(self, model):
        """Return the point of the dense model, round 0."""
        if self._journal.points:
            dense = self._journal.points[0]
            self._judge.judged = dense.judged
            return dense
        self._say(f"round 0: the dense model, for {self._target.name}")
        start = time.perf_counter()
        self._journal.save(model, "dense.keras")
        model = self._journal.load("dense.keras")
        path, report = self._export(model, _DENSE, "dense")
        names = [output.name for output in report.outputs]
        judging = time.perf_counter()
        metric = self._judge.of_dense(path, names, model)
        check_better_than_chance(self._judge, self._goal, metric, model)
        judged = time.perf_counter() - judging
        latency = self._stopwatch.compare(path, path)[0] if self._stopwatch.measures else None
        point = Point(
            number=0,
            step=_DENSE,
            metric=metric,
            drop=0.0,
            latency=latency,
            measured=self._stopwatch.measures,
            model="dense.keras",
            judged=self._judge.judged,
            **self._facts(model, path, report),
            seconds={"fit": 0.0, "evaluate": judged, "all": time.perf_counter() - start},
        )
        self._tell(point)
        self._journal.add(point)
        return point

    def run(self, ways, dense):
        """Do what the plan asks for; return all points."""
        steps, answer = plan(self._goal, ways, dense, self._rounds), None
        with contextlib.suppress(StopIteration):
            for number in range(1, self._rounds + 1):
                step = next(steps) if answer is None else steps.send(answer)
                answer = self._journal.known(number, step)
                if answer is None:
                    base = self._journal.points[step.parent] if self._make.trains else dense
                    answer = self._round(number, step, dense, base)
                    self._journal.add(answer)
        return self._journal.points

    def run_trials(self, trials, dense):
        """Do what Optuna asks for; return the points of all processes."""
        for number, step, tell in trials:
            tell(self._round(number, step, dense, dense))
        return [dense, *sorted(trials.points, key=lambda point: point.number)]

    def _round(self, number, step, dense, base):
        """Return the `Point` of a step, from the model of the point `base`."""
        self._say(f"round {number} of at most {self._rounds}: {step}")
        start = time.perf_counter()
        keras.utils.set_random_seed(self._seed + number)
        try:
            point = self._made(number, step, dense, base)
        except (ExportError, Impossible) as error:
            point = Point(number, step, reason=first_line(error))
        point.seconds["all"] = time.perf_counter() - start
        self._tell(point)
        gc.collect()
        return point

    def _made(self, number, step, dense, base):
        """The point of a step, its file written."""
        name = f"round-{number:02d}"
        model = self._journal.load(base.model)
        model = self._make(step, base.step, model)
        self._journal.save(model, f"{name}.keras")
        path, report = self._export(model, step, name)
        judging = time.perf_counter()
        metric = self._judge(path, [output.name for output in report.outputs], model)
        judged = time.perf_counter() - judging
        facts = self._facts(model, path, report)
        latency, speedup = None, estimated(report, facts["flops"], dense.flops)
        if self._stopwatch.measures:
            try:
                latency, speedup = self._stopwatch.compare(self._journal.path(dense.file), path)
            except ValueError as error:
                raise Impossible(str(error)) from error
        finite = math.isfinite(metric)
        return Point(
            number=number,
            step=step,
            metric=metric if finite else None,
            drop=self._goal.drop(metric, dense.metric) if finite else None,
            latency=latency,
            speedup=speedup,
            measured=self._stopwatch.measures,
            model=f"{name}.keras",
            judged=self._judge.judged,
            reason="" if finite else f"`evaluate` returned {metric}",
            size_share=report.gzipped_bytes / dense.gzipped_bytes,
            **facts,
            seconds={"fit": self._make.fitted, "evaluate": judged},
        )

    def _export(self, model, step, name):
        """Write the file of a model; return its path and the `ExportReport`."""
        data = None
        if self._examples is not None:
            data = self._examples.packed(self._examples.calibration)
        options = {"quantize": CODEBOOK if step.clusters else step.quantize}
        options |= {"representative_data": data}
        if step.quantize and self._judge.judged == "file":
            options["tolerance"] = _ANY_ROUNDING
        path = self._journal.path(f"{name}.{self._target.format}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotFasterWarning)  # It is measured, or will be.
            if self._target.format == "onnx":
                return path, export_onnx(model, path, **options)
            return path, export_tflite(model, path, target=self._target, **options)

    def _facts(self, model, path, report):
        counted = count_flops(model)
        return {
            "file": path.name,
            "bytes": report.bytes,
            "gzipped_bytes": report.gzipped_bytes,
            "flops": None if counted.uncounted else counted.total,
            "parameters": model.count_params(),
        }

    def _tell(self, point):
        if point.file is None:
            self._say(f"  no file: {point.reason}")
            return
        took = datetime.timedelta(seconds=round(point.seconds["all"]))
        metric = "-" if point.metric is None else f"{point.metric:.4f} ({-point.drop:+.4f})"
        kept = "" if self._goal.holds(point) else ", which is too much"
        how = "" if point.measured else " (estimated)"
        size = tables.size(point.gzipped_bytes)
        self._say(
            f"  {metric}{kept}; {tables.ratio(point.speedup)} as fast{how}; {size} gzipped; "
            f"took {took}"
        )

    def _say(self, text):
        self._console.print(text, markup=False)
