"""`optimize`: the fastest verified file that still does the job."""

import dataclasses
import importlib.util
import numbers
from collections.abc import Callable
from typing import Any

import keras

from kprune._keras import backend
from kprune._keras.compiling import compiles_in_its_own_way
from kprune._system.packages import require_packages
from kprune._system.type_aliases import FilePath
from kprune.graphs.load import as_model
from kprune.measure.benchmark import machine
from kprune.report.files import write_json
from kprune.search import optuna_search
from kprune.search.agreement import Agreement, Examples
from kprune.search.frontier import OptimizeResult
from kprune.search.goal import make_goal
from kprune.search.journal import DENSE, Journal, fingerprint
from kprune.search.judge import Judge
from kprune.search.loop import Loop
from kprune.search.make import Maker
from kprune.search.stopwatch import Stopwatch
from kprune.search.ways import ways_for
from kprune.targets.target import Target, get_target
from kprune.training.strip import find_pruning

_ROUNDS, _TRIALS = 12, 50


def optimize(
    model: keras.Model | FilePath,
    target: Target | str,
    fit: Callable[..., Any] | None = None,
    evaluate: Callable[..., Any] | None = None,
    max_drop: float | None = None,
    *,
    latency: float | None = None,
    size: float | None = None,
    relative: bool = False,
    mode: str = "max",
    data: Any = None,
    out: FilePath = "optimized",
    rounds: int = _ROUNDS,
    seed: int = 0,
    verbose: bool = True,
    search: str | None = None,
    trials: int = _TRIALS,
    storage: Any = None,
) -> OptimizeResult:
    """Search for the fastest file of a model on a target that still does the job.

    Round by round the model is compressed further, by what the target can use: zeros where it has
    kernels for them (after `prepare`), channels removed, 8 bits; each time it is trained, exported,
    verified, judged and timed in the target's runtime beside the dense file. A round that loses too
    much is taken back, and half as much is tried. He et al., "AMC" (2018), search for the same with
    a learned agent; here the steps follow from what was measured.

    For an Ethos-U all files are int8, the dense one as well, and times are Vela's estimates.

    Every round is kept in `out`: a search that was killed goes on where it was when it is called
    again with the same arguments. `kprune.search.OptimizeResult` has all points, the frontier among
    them, and the one that is recommended.

    Without `fit` the model is pruned at once, from `data` (`kprune.prune_once`), and batch
    normalizations are measured again.

    Example:

    ```python
    result = kprune.optimize(
        model,
        target="litert-arm64",
        fit=lambda model, callbacks: model.fit(x, y, epochs=3, callbacks=callbacks),
        evaluate=lambda model: model.evaluate(x_val, y_val, return_dict=True)["accuracy"],
        max_drop=0.01,
        out="optimized",
    )
    print(result)
    result.best.path
    ```

    Args:
        model: a built `keras.Model`, trained, or the path of a `.keras` file; compiled, if `fit`
            does not compile it. It stays as it is: models are made from the copy in `out`.
        target: as in `for_target`.
        fit: function `fit(model, callbacks)` that trains a model with these callbacks. The model
            is compiled as the one that was passed, with a new optimizer.
        evaluate: function from a model to the metric. What it gets is a `keras.Model` whose
            `evaluate`, `predict` and `__call__` run the exported file in its runtime. By default,
            with `data`: accuracy, if that has labels, else agreement with the dense model.
        max_drop: float, how much worse than the dense file's the metric may be; 0.01 where no
            budget is given.
        latency: float in (0, 1), the share of the dense file's latency to come down to, with the
            best metric. Instead of as fast as `max_drop` allows.
        size: the same, of the dense file's gzipped bytes.
        relative: bool, whether `max_drop` is a share of the dense file's metric.
        mode: `"max"` if a higher metric is better, `"min"` if a lower one is.
        data: arrays, `(x, y)`, or an iterable of batches: some hundred examples, of which one half
            calibrates 8 bits and prunes where there is no `fit`, and the other half judges where
            there is no `evaluate`.
        out: folder for files, rounds and the report; made if it is not there.
        rounds: int, how many there may be at most.
        seed: int; each round seeds Keras, NumPy and Python from it.
        verbose: bool, whether each round is told of on standard error.
        search: None for the plan above; `"optuna"` for trials that choose the sparsity of each
            layer and the width of each group of channels, all from the dense model, which takes
            many more rounds. Several processes may work at once, with the same `out` and `storage`.
        trials: int, how many Optuna makes, of all processes.
        storage: of Optuna, such as `"sqlite:///study.db"`; a journal file in `out` by default.

    Returns:
        An `OptimizeResult`, which is also in `out`: `result.json`, and `frontier.png` where
        matplotlib is installed. If no point is all that was asked for, `met` is False.

    Raises:
        TypeError: not a Keras 3 model, or what is no function.
        ValueError: arguments out of their ranges or missing; an unknown target; a model that is
            still being pruned; `evaluate` that returns no number, or is no better for the trained
            model than for one with its weights shuffled; `fit` that does not train; an `out` that
            holds another search. Rounds that were finished stay.
        ImportError: a package is not installed.
        OSError, ExportError: `out` cannot be written to, or the dense model cannot be exported.
    """
    goal = make_goal(max_drop, relative, latency, size, mode)
    target = get_target(target)
    _check(fit, evaluate, data, {"rounds": (rounds, 1), "seed": (seed, 0), "trials": (trials, 1)})
    _check_search(search, storage)
    require_packages(target.format)
    model = as_model(model)
    _check_plain(model)
    if data is None and target.own_quantize is not None:
        raise ValueError(
            f"{target.name} runs files in {target.own_quantize} only: give `data`, some hundred "
            "examples to calibrate them by. Received: data=None"
        )
    examples = None if data is None else Examples(data, model)
    notes = []
    if evaluate is None:
        evaluate = Agreement(model, examples)
        notes.append(f"metric: {evaluate.about}")
    stopwatch = Stopwatch(target, seed)
    notes.append(f"speed: {stopwatch.about}")
    about = {
        "model": fingerprint(model),
        "target": target.name,
        "goal": dataclasses.asdict(goal),
        "fit": fit is not None,
        "data": examples is not None,
        "seed": seed,
        "search": search,
    }
    journal = Journal(out, about)
    maker = Maker(
        target, fit, model, examples,
        dense=lambda: journal.load(DENSE),
        everywhere=goal.size is not None,
    )  # fmt: skip
    judge = Judge(evaluate, model)
    most = rounds if search is None else trials
    loop = Loop(target, goal, journal, maker, judge, stopwatch, examples, seed, most, verbose)
    with backend.variable_scope(model):  # Models are made for the devices of the user's.
        with journal.held(wait=search is not None):
            dense = loop.dense(model)
            ways, more = ways_for(model, target, goal, maker.trains, examples, stopwatch, judge)
            points = loop.run(ways, dense) if search is None else None
        if search is not None:  # Others may join.
            space = optuna_search.space_for(model, target, ways)
            study = optuna_search.Trials(space, goal, journal, storage, trials, seed)
            points = loop.run_trials(study, dense)
    return _result(target, goal, points, journal.folder, [*notes, *more])


def _result(target, goal, points, folder, notes):
    """Return the result, and write it into the folder."""
    placed = [
        dataclasses.replace(
            point,
            file=point.file and str(folder / point.file),
            model=point.model and str(folder / point.model),
        )
        for point in points
    ]
    result = OptimizeResult(target.name, goal, placed, str(folder), notes, machine())
    write_json(folder / "result.json", result.to_dict())
    if importlib.util.find_spec("matplotlib") is not None:
        result.plot(folder / "frontier.png")
    return result


def _check(fit, evaluate, data, counts):
    for name, function in {"fit": fit, "evaluate": evaluate}.items():
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be a function. Received: {name}={function!r}")
    if fit is None and data is None:
        raise ValueError(
            "Give `fit`, a function fit(model, callbacks) that trains the model, or `data`, some "
            "hundred examples to prune it by at once. Received neither."
        )
    if fit is not None and evaluate is None and data is None:
        raise ValueError(
            "Give `evaluate`, a function from the model to the metric that must hold, or `data` to "
            "judge by. Received neither."
        )
    for name, (value, least) in counts.items():
        real = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not real or value < least:
            raise ValueError(
                f"`{name}` must be an int of at least {least}. Received: {name}={value!r}"
            )


def _check_search(search, storage):
    if search not in (None, "optuna"):
        raise ValueError(f"`search` is None or 'optuna'. Received: search={search!r}")
    if search is None and storage is not None:
        raise ValueError(
            f"`storage` is Optuna's: give search='optuna' with it. Received: storage={storage!r}"
        )
    if search == "optuna":
        optuna_search.check_installed()


def _check_plain(model):
    installed = find_pruning(model)
    if installed:
        raise ValueError(
            f"{'; '.join(installed)}. Take it off first: model = kprune.strip_pruning(model)"
        )
    if compiles_in_its_own_way(model):
        raise ValueError(
            f"{type(model).__name__} has a `compile` of its own, so that the models of the rounds "
            "cannot be compiled as it is: compile them in `fit`, before model.fit, and pass a "
            "model that is not compiled."
        )
