"""The rounds of a search: make, train, export, judge and time a model; keep it, or go back."""

import dataclasses
import datetime
import gc
import math
import time
import warnings
from typing import Any

import keras
from rich.console import Console

from kprune._system.errors import ExportError, first_line
from kprune.export import NotFasterWarning, export_onnx, export_tflite
from kprune.formats.tflite.codebooks import CODEBOOK
from kprune.graphs.flops import flops as count_flops
from kprune.report import tables
from kprune.search.journal import DENSE, model_name
from kprune.search.judge import check_better_than_chance
from kprune.search.plan import plan
from kprune.search.points import Impossible, Point, Step
from kprune.search.stopwatch import estimated

_DENSE = Step(parent=0)
_ANY_ROUNDING = 1.0  # The metric of the file will tell what rounding costs.


@dataclasses.dataclass
class Loop:
    """Runs a plan, round by round.

    Attributes:
        target: a `Target`.
        goal: a `Goal`.
        journal: a `Journal`.
        make: a `Maker`.
        judge: a `Judge`.
        stopwatch: a `Stopwatch`.
        examples: `Examples`, or None.
        seed: int.
        rounds: int, the most there may be, besides the dense model's.
        verbose: bool, whether to say on standard error what is done.
    """

    target: Any
    goal: Any
    journal: Any
    make: Any
    judge: Any
    stopwatch: Any
    examples: Any
    seed: int
    rounds: int
    verbose: bool

    def dense(self, model):
        """Return the point of the dense model, round 0."""
        if self.journal.points:
            dense = self.journal.points[0]
            self.judge.judged = dense.judged
            self.judge.reason = dense.reason
            return dense
        self._say(f"round 0: the dense model, for {self.target.name}")
        clock = _Clock()
        model = self.journal.copy_of(model)
        path, report = self._export(model, _DENSE, "dense")
        clock.lap("export")
        names = [output.name for output in report.outputs]
        metric = self.judge.of_dense(path, names, model)
        facts = self._facts(model, path, report)
        check_better_than_chance(self.judge, self.goal, metric, model)
        clock.lap("evaluate")
        latency = self.stopwatch.compare(path, path)[0] if self.stopwatch.measures else None
        clock.lap("timing")
        point = Point(
            number=0,
            step=_DENSE,
            metric=metric,
            drop=0.0,
            latency=latency,
            measured=self.stopwatch.real,
            model=DENSE,
            judged=self.judge.judged,
            reason=self.judge.reason,
            **facts,
            seconds=clock.seconds,
        )
        self._tell(point)
        self.journal.add(point)
        return point

    def run(self, ways, dense):
        """Do what the plan asks for; return all points."""
        steps, answer = plan(self.goal, ways, dense, self.rounds), None
        for _ in range(self.rounds):
            try:
                step = steps.send(answer)  # None starts it.
            except StopIteration:
                break
            number, answer = self.journal.number_of(step)
            if answer is None:
                base = self.journal.points[step.parent] if self.make.trains else dense
                answer = self._round(number, step, dense, base)
                self.journal.add(answer)
        return self.journal.points

    def run_trials(self, trials, dense):
        """Do what Optuna asks for; return the points of all processes."""
        for number, step, tell in trials:
            tell(self._round(number, step, dense, dense))
        return [dense, *sorted(trials.points, key=lambda point: point.number)]

    def _round(self, number, step, dense, base):
        """Return the `Point` of a step, from the model of the point `base`."""
        self._say(f"round {number} of at most {self.rounds}{self._time_left(number)}: {step}")
        keras.utils.set_random_seed(self.seed + number)
        clock = _Clock()
        try:
            model = self._model(number, step, base, clock)
            point = self._made(number, step, dense, model, clock)
        except (ExportError, Impossible) as error:
            point = Point(number, step, reason=first_line(error), seconds=clock.seconds)
        self._tell(point)
        gc.collect()
        return point

    def _model(self, number, step, base, clock):
        """The model of a step, as it comes out of its file."""
        before = self.journal.trained_before(number, step)
        if before is None:
            model = self.make(step, base.step, self.journal.load(base.model))
            before = self.make.fitted
            clock.lap("making")
            clock.seconds["making"] -= before
            self.journal.add_model(model, number, step, before)
        clock.seconds["fit"] = before
        return self.journal.load(model_name(number))

    def _made(self, number, step, dense, model, clock):
        """The point of a step, from its model."""
        path, report = self._export(model, step, f"round-{number:02d}")
        clock.lap("export")
        metric, reason = self._judged(path, report, model)
        clock.lap("evaluate")
        facts = self._facts(model, path, report)
        latency, speedup = None, estimated(report, facts["flops"], dense.flops)
        if self.stopwatch.measures:
            try:
                latency, speedup = self.stopwatch.compare(self.journal.path(dense.file), path)
            except ValueError as error:
                raise Impossible(str(error)) from error
        clock.lap("timing")
        return Point(
            number=number,
            step=step,
            metric=metric,
            drop=None if metric is None else self.goal.drop(metric, dense.metric),
            latency=latency,
            speedup=speedup,
            measured=self.stopwatch.real,
            model=model_name(number),
            judged=self.judge.judged,
            reason=reason,
            size_share=report.gzipped_bytes / dense.gzipped_bytes,
            **facts,
            seconds=clock.seconds,
        )

    def _judged(self, path, report, model):
        """(the metric of a file, ""), or (None, why there is none): the search can go on."""
        try:
            metric = self.judge(path, [output.name for output in report.outputs], model)
        except Exception as error:
            return None, f"`evaluate` failed: {first_line(error)}"
        if not math.isfinite(metric):
            return None, f"`evaluate` returned {metric}"
        return metric, ""

    def _export(self, model, step, name):
        """Write the file of a model; return its path and the `ExportReport`."""
        data = None
        if self.examples is not None:
            data = self.examples.packed(self.examples.calibration)
        quantize = step.quantize or self.target.own_quantize
        options = {"quantize": CODEBOOK if step.clusters else quantize}
        options |= {"representative_data": data}
        if quantize and self.judge.judged == "file":
            options["tolerance"] = _ANY_ROUNDING
        path = self.journal.path(f"{name}.{self.target.format}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotFasterWarning)  # It is measured, or will be.
            if self.target.format == "onnx":
                return path, export_onnx(model, path, **options)
            return path, export_tflite(model, path, target=self.target, **options)

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
        took = datetime.timedelta(seconds=round(sum(point.seconds.values())))
        metric = "-" if point.metric is None else f"{point.metric:.4f} ({0.0 - point.drop:+.4f})"
        kept = "" if self.goal.holds(point) else ", which is too much"
        how = "" if point.measured else " (estimated)"
        size = tables.size(point.gzipped_bytes)
        self._say(
            f"  {metric}{kept}; {tables.ratio(point.speedup)} as fast{how}; {size} gzipped; "
            f"took {took}"
        )

    def _time_left(self, number):
        """How long the rest may take, by the rounds there are, in words."""
        took = [sum(point.seconds.values()) for point in self.journal.points[1:]]
        if not took:
            return ""
        left = (self.rounds - number + 1) * sum(took) / len(took)
        return f", {datetime.timedelta(seconds=round(left))} left at most"

    def _say(self, text):
        console = Console(stderr=True, quiet=not self.verbose, highlight=False)
        console.print(text, markup=False)


class _Clock:
    """Adds up what the parts of a round take."""

    def __init__(self):
        self.seconds, self._since = {}, time.perf_counter()

    def lap(self, part):
        """Count the time since the last call for a part of the round."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
