"""What pruning costs in training: dense against kprune against TFMOT, side by side in one run.

    python scripts/benchmark_training.py --weights 0.5M,1M,5M --frequency 100 --json out.json

A small CNN is trained on random images of 32 x 32 by four contenders: Keras without pruning,
Keras with `kprune.Pruning` (the real compiled step of `model.fit`), tf_keras without pruning, and
TFMOT's wrapper layers on tf_keras. Each lives in a process of its own, so that they cannot
disturb each other, and only one runs at a time: in every round all of them train for one cycle of
`--frequency` steps, in ten visits each, in shuffled order. Masks change once a cycle, as sparsity
rises along a cubic from 0 to `--sparsity` over the run. Ratios are those of a contender's mean
step to the dense mean step of the same library in the same round; the median of the rounds is
shown, for wall time and for CPU time of the process (all threads), which other load disturbs less.

`--criteria Taylor,RigL,Lasso` adds contenders that prune by these, or with that regrowth or
penalty; their ratios are those to kprune with `Magnitude`.

Then one mask is computed for a 4096 x 4096 weight: by kprune, by a top-k of as many weights as
are kept, and by TFMOT, which runs a top-k of all of them.

With KERAS_BACKEND=jax or torch, TFMOT and tf_keras are left out.
"""

import itertools
import multiprocessing
import os
import platform
import random
import statistics
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from _start import start

DENSE, KPRUNE, TF_DENSE, TFMOT = "Keras, dense", "kprune", "tf_keras, dense", "TFMOT"
# Others are kprune with another criterion, a regrowth or a penalty, and compared with kprune.
BASELINES = {DENSE: DENSE, KPRUNE: DENSE, TF_DENSE: TF_DENSE, TFMOT: TF_DENSE}
CRITERIA = ("Taylor", "Importance", "Sensitivity", "Movement", "Fisher", "Random")
REGROWTHS = ("RigL", "SET")
PENALTIES = {"Lasso": 0.01, "DensityPenalty": 0.01, "GrowingRegularization": 1.0}  # Strengths.
PARTS = (*CRITERIA, *REGROWTHS, *PENALTIES)
TOP_K = "top_k"
VISITS_A_CYCLE = 10
WARMUP_STEPS = 3
CLASSES = 10
BATCHES = 64


# --- In the contenders' processes ---------------------------------------------------------------


def cnn(keras, width):
    """A CNN of three convolutions and two dense layers; `cnn_size(width)` weights."""
    layers = keras.layers
    model = keras.Sequential()
    model.add(layers.Input((32, 32, 3)))
    for filters in (width, 2 * width, 4 * width):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(16 * width, activation="relu"))
    model.add(layers.Dense(CLASSES))
    return model


class Training:
    """A contender, which trains in one `fit` call, some steps whenever told to."""

    def __init__(self, contender, width, batch_size, frequency, sparsity, rounds, jit_compile):
        if contender in (TF_DENSE, TFMOT):
            import tf_keras as keras
        else:
            import keras
        keras.utils.set_random_seed(0)
        self.keras, self.contender, self.frequency = keras, contender, frequency
        self.steps = WARMUP_STEPS + rounds * frequency
        # More of them than a CNN learns by heart in the time, so that gradients stay alive.
        self.batches = [_batch(batch_size, seed) for seed in range(BATCHES)]
        self.model = cnn(keras, width)
        self.callbacks = []
        end = rounds * frequency
        if contender.startswith(KPRUNE):
            import kprune

            schedule = kprune.PolynomialDecay(0.0, sparsity, 0, end, frequency=frequency)
            options, name = {}, contender.removeprefix(KPRUNE).removeprefix(" ")
            if name:
                strength = [PENALTIES[name]] if name in PENALTIES else []
                part = getattr(kprune.pruning, name)(*strength)
                kind = "penalty" if strength else "regrowth" if name in REGROWTHS else "criterion"
                options = {kind: part}
            self.callbacks = [kprune.Pruning(schedule=schedule, **options)]
        elif contender == TFMOT:
            from tensorflow_model_optimization.sparsity import keras as tfmot

            schedule = tfmot.PolynomialDecay(0.0, sparsity, 0, end, frequency=frequency)
            self.model = tfmot.prune_low_magnitude(self.model, pruning_schedule=schedule)
            self.callbacks = [tfmot.UpdatePruningStep()]
        self.model.compile(
            optimizer=keras.optimizers.Adam(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **({} if jit_compile is None else {"jit_compile": jit_compile}),
        )

    def serve(self, pipe):
        """Receive how many steps to train for, train, and send their times, until all are made.

        What is sent is a list of `(wall seconds, CPU seconds, whether masks changed)`.
        """
        prunes, frequency = self.contender not in (DENSE, TF_DENSE), self.frequency

        class Turns(self.keras.callbacks.Callback):
            step, left = 0, 0

            def on_train_batch_begin(self, batch, logs=None):
                if not self.left:
                    self.left, self.times = pipe.recv(), []
                    self.last = _now()

            def on_train_batch_end(self, batch, logs=None):
                # Reading the loss waits for the step where it is dispatched asynchronously.
                float(logs["loss"])
                now = _now()
                self.step, self.left = self.step + 1, self.left - 1
                # Both count the step that is being made as well.
                update = prunes and self.step % frequency == 0
                self.times.append((now[0] - self.last[0], now[1] - self.last[1], update))
                self.last = now
                if not self.left:
                    pipe.send(self.times)

        batches = (batch for batch in itertools.cycle(self.batches))
        callbacks = [*self.callbacks, Turns()]
        self.model.fit(batches, steps_per_epoch=self.steps, verbose=0, callbacks=callbacks)

    def result(self):
        """The sparsity of all kernels."""
        kernels = [w.numpy() for w in self.model.trainable_weights if len(w.shape) > 1]
        return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))


class MaskUpdate:
    """One update of the mask of a side x side weight."""

    def __init__(self, contender, side):
        import keras
        import numpy as np

        rng = np.random.default_rng(0)
        self.weight = keras.ops.convert_to_tensor(rng.standard_normal((side, side), "float32"))
        function = {KPRUNE: _kprune_mask, TOP_K: _top_k_mask, TFMOT: _tfmot_mask}[contender]
        self.function = {s: _compiled(function(s, side * side)) for s in (0.5, 0.9)}
        self.density = {}
        for sparsity in self.function:
            self.update(sparsity)

    def serve(self, pipe):
        """Receive a sparsity, compute the mask, and send the time, until None is received."""
        while (sparsity := pipe.recv()) is not None:
            pipe.send(self.update(sparsity))

    def update(self, sparsity):
        """Compute the mask and return `(wall seconds, CPU seconds)`."""
        from keras import ops

        start = _now()
        mask = self.function[sparsity](self.weight)
        ops.convert_to_numpy(mask[0, 0])  # waits for it
        end = _now()
        self.density[sparsity] = float(ops.convert_to_numpy(mask).mean())
        return end[0] - start[0], end[1] - start[1]

    def result(self):
        """The sparsity of each mask."""
        return {sparsity: 1 - density for sparsity, density in self.density.items()}


def _kprune_mask(sparsity, size):
    from keras import ops

    import kprune

    def update(weight):
        # As in PruningOptimizer: the sparsity is a tensor, computed from the step.
        units = kprune.Unstructured().units(kprune.Magnitude()(weight))
        target = ops.convert_to_tensor(sparsity, "float32")
        shapes = [tuple(weight.shape)]
        return kprune.Uniform().unit_masks([units], [(size, size)], shapes, target, [sparsity])[0]

    return update


def _top_k_mask(sparsity, size):
    from keras import ops

    kept = round(size * (1 - sparsity))

    def update(weight):
        scores = ops.abs(weight)
        return scores >= ops.top_k(ops.reshape(scores, (-1,)), kept)[0][-1]

    return update


def _tfmot_mask(sparsity, size):
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_impl,
        pruning_schedule,
    )

    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: 0,
        pruning_vars=[],
        pruning_schedule=pruning_schedule.ConstantSparsity(sparsity, 0),
        block_size=(1, 1),
        block_pooling_type="AVG",
    )
    return lambda weight: pruning._maybe_update_block_mask(weight)[1]


def _compiled(function):
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def _batch(size, seed):
    import numpy as np

    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, 32, 32, 3), "float32")
    return images, rng.integers(0, CLASSES, size)


def _now():
    return time.perf_counter(), time.process_time()


def _serve(pipe, kind, arguments):
    """The life of a contender's process: make it, then run it whenever told to."""
    # What the libraries print; errors go through the pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        contender = kind(**arguments)
        contender.serve(pipe)
        pipe.send(contender.result())
    except Exception as error:
        pipe.send(RuntimeError(f"{arguments['contender']}: {type(error).__name__}: {error}"))


# --- In the parent's process --------------------------------------------------------------------


class Contenders:
    """The contenders' processes, of which one runs at a time."""

    def __init__(self, kind, names, **arguments):
        context = multiprocessing.get_context("spawn")
        self.processes, self.pipes = {}, {}
        for name in names:
            self.pipes[name], theirs = context.Pipe()
            self.processes[name] = context.Process(
                target=_serve, args=(theirs, kind, {"contender": name, **arguments}), daemon=True
            )

    def __enter__(self):
        for process in self.processes.values():
            process.start()
        return self

    def visit(self, name, argument):
        """Have a contender run, and return what it sends."""
        self.pipes[name].send(argument)
        return self.result(name)

    def result(self, name):
        """Return what a contender sends, at last its result."""
        while not self.pipes[name].poll(1):
            if not self.processes[name].is_alive():
                raise RuntimeError(f"{name}: its process ended without an answer")
        answer = self.pipes[name].recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __exit__(self, *_):
        for process in self.processes.values():
            process.terminate()
            process.join()


def cnn_size(width):
    """The number of weights of `cnn`, biases included."""
    convolutions = 9 * (3 * width + 2 * width * width + 8 * width * width) + 7 * width
    dense = 16 * 4 * width * 16 * width + 16 * width
    return convolutions + dense + 16 * width * CLASSES + CLASSES


def measure_training(width, names, rounds, frequency, advance, **settings):
    """Train all contenders by turns and return a dict with the figures of each."""
    visits = [len(range(i, frequency, VISITS_A_CYCLE)) for i in range(VISITS_A_CYCLE)]
    cycles = {name: [] for name in names}
    order = random.Random(0)
    settings = {"width": width, "rounds": rounds, "frequency": frequency, **settings}
    with Contenders(Training, names, **settings) as contenders:
        for name in names:
            contenders.visit(name, WARMUP_STEPS)
        for _ in range(rounds):
            for name in names:
                cycles[name].append([])
            for steps in filter(None, visits):
                for name in order.sample(names, len(names)):
                    cycles[name][-1] += contenders.visit(name, steps)
                    advance()
        reached = {name: contenders.result(name) for name in names}
    return {name: _summary(name, cycles) | {"sparsity": reached[name]} for name in names}


def _summary(name, cycles):
    figures, baseline = {}, BASELINES.get(name, KPRUNE)
    for i, clock in enumerate(("wall", "cpu")):
        steps = [step for cycle in cycles[name] for step in cycle]
        updates = [step[i] for step in steps if step[2]]
        means = {
            who: [statistics.fmean(step[i] for step in cycle) for cycle in cycles[who]]
            for who in (name, baseline)
        }
        ratios = [a / b for a, b in zip(means[name], means[baseline])]
        figures[clock] = {
            "ordinary_step": statistics.median(step[i] for step in steps if not step[2]),
            "update_step": statistics.median(updates) if updates else None,
            "mean_step": statistics.median(means[name]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
    return figures


def measure_masks(side, names, rounds, advance):
    """Compute masks by turns and return a dict with the figures of each."""
    times = {(name, sparsity): [] for name in names for sparsity in (0.5, 0.9)}
    order = random.Random(0)
    with Contenders(MaskUpdate, names, side=side) as contenders:
        for name in names:
            contenders.visit(name, 0.5)
        for _ in range(rounds):
            for name, sparsity in order.sample(list(times), len(times)):
                times[name, sparsity].append(contenders.visit(name, sparsity))
                advance()
        reached = {name: contenders.visit(name, None) for name in names}
    found = {name: {} for name in names}
    for name, sparsity in times:
        rounds_of = times[name, sparsity]
        found[name][str(sparsity)] = {"sparsity": reached[name][sparsity]}
        for i, clock in enumerate(("wall", "cpu")):
            ratios = [a[i] / b[i] for a, b in zip(rounds_of, times[KPRUNE, sparsity])]
            found[name][str(sparsity)][clock] = {
                "update": statistics.median(t[i] for t in rounds_of),
                "ratio": statistics.median(ratios),
            }
    return found


def training_table(title, figures):
    """One table, two rows for each contender: wall time, and CPU time of its process."""
    from kprune.report import tables

    rows = []
    for name, figure in figures.items():
        for clock in ("wall", "cpu"):
            times = figure[clock]
            rows.append(
                (
                    name if clock == "wall" else "",
                    clock,
                    *(
                        tables.milliseconds(times[kind])
                        for kind in ("ordinary_step", "update_step", "mean_step")
                    ),
                    f"{times['ratio']:.3f}x",
                    tables.percent(figure["sparsity"]) if clock == "wall" else "",
                )
            )
    columns = ["contender", "clock", ">ordinary", ">update", ">mean", ">/ baseline", ">sparsity"]
    return tables.table(columns, rows, title=title)


def mask_table(title, figures):
    """One table, a row for each way to compute a mask."""
    from kprune.report import tables

    rows = []
    for name, by_sparsity in figures.items():
        for sparsity, figure in by_sparsity.items():
            clocks = [figure[clock] for clock in ("wall", "cpu")]
            times = [tables.milliseconds(clock["update"]) for clock in clocks]
            rows.append((name, sparsity, *times, *(tables.ratio(c["ratio"]) for c in clocks)))
    columns = ["contender", "sparsity", ">wall", ">cpu", ">wall / kprune", ">cpu / kprune"]
    return tables.table(columns, rows, title=title)


def _size(text):
    factor = {"k": 1e3, "m": 1e6}.get(text[-1:].lower(), 1)
    try:
        return float(text.rstrip("kKmM")) * factor
    except ValueError:
        raise ValueError(f"--weights takes sizes such as 500k,1M,5M. Received: {text!r}") from None


def _width(weights):
    """The width of the CNN whose size comes nearest."""
    return min(range(1, 1000), key=lambda width: abs(cnn_size(width) - weights))


def main(
    weights: Annotated[str, typer.Option(help="Sizes of the CNN, such as 0.5M,1M,5M.")] = "5M",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    frequency: Annotated[int, typer.Option(min=1, help="Steps from mask update to update.")] = 100,
    sparsity: Annotated[float, typer.Option(help="Sparsity at the end of the run.")] = 0.9,
    rounds: Annotated[int, typer.Option(min=1, help="Cycles of `frequency` steps.")] = 7,
    mask_rounds: Annotated[int, typer.Option(min=0, help="Mask updates; 0 for none.")] = 5,
    mask_side: Annotated[int, typer.Option(min=2, help="Side of the square weight.")] = 4096,
    jit_compile: Annotated[
        bool | None,
        typer.Option(help="XLA; off by default on tensorflow, where it slows CNNs on CPUs."),
    ] = None,
    criteria: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}.")] = "",
    tfmot: Annotated[bool, typer.Option(help="Measure TFMOT and tf_keras, too.")] = True,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Measure what pruning costs in training."""
    start()
    import keras
    from rich.console import Console
    from rich.progress import Progress

    from kprune.cli.common import plain_errors
    from kprune.pruning.schedules import check_sparsity
    from kprune.report.files import write_json

    with plain_errors():
        check_sparsity(sparsity)
        widths = [_width(_size(text)) for text in weights.split(",")]
        more = list(filter(None, criteria.split(",")))
        if set(more) - set(PARTS):
            raise ValueError(f"--criteria takes {', '.join(PARTS)}. Received: {criteria}")
    console = Console()
    backend = keras.backend.backend()
    if jit_compile is None and backend == "tensorflow":
        jit_compile = False
    with_tfmot, note = tfmot, "left out, as asked"
    if backend != "tensorflow":
        with_tfmot, note = False, f"left out: it trains on tensorflow only, not on {backend}"
    elif not find_spec("tensorflow_model_optimization") or not find_spec("tf_keras"):
        with_tfmot, note = False, 'left out: not installed (pip install "kprune[tfmot]")'
    names = [DENSE, KPRUNE, TF_DENSE, TFMOT] if with_tfmot else [DENSE, KPRUNE]
    names += [f"{KPRUNE} {name}" for name in more]
    if not with_tfmot:
        console.print(f"TFMOT is {note}.")
    settings = {"batch_size": batch_size, "sparsity": sparsity, "jit_compile": jit_compile}
    mask_names = [KPRUNE, TOP_K, TFMOT] if with_tfmot else [KPRUNE, TOP_K]
    report = {
        "machine": _machine(),
        "backend": backend,
        "settings": {"frequency": frequency, "rounds": rounds, **settings},
        "tfmot": None if with_tfmot else note,
        "training": [],
    }
    terminal = Console(stderr=True)
    shown = {"console": terminal, "transient": True, "disable": not terminal.is_terminal}
    with Progress(**shown) as progress:
        for width in widths:
            size = cnn_size(width)
            visits = rounds * len(names) * min(VISITS_A_CYCLE, frequency)
            bar = progress.add_task(f"training, {size:,} weights", total=visits)
            figures = measure_training(
                width, names, rounds, frequency, lambda b=bar: progress.advance(b), **settings
            )
            report["training"].append({"weights": size, "contenders": figures})
            console.print(
                training_table(
                    f"A training step: {size:,} weights, batch {batch_size}, {backend}", figures
                )
            )
        if mask_rounds:
            bar = progress.add_task("masks", total=mask_rounds * len(mask_names) * 2)
            report["masks"] = measure_masks(
                mask_side, mask_names, mask_rounds, lambda: progress.advance(bar)
            )
            title = f"One mask update: {mask_side} x {mask_side}, float32, {backend}"
            console.print(mask_table(title, report["masks"]))
    console.print(
        f"ordinary, update: medians a step; mean: over cycles of {frequency} steps, one of them "
        f"with an update, median of {rounds}. CPU: time of all threads of the process.",
        style="dim",
    )
    if json:
        write_json(json, report)


def _machine():
    packages = ("keras", "tensorflow", "jax", "torch", "tf_keras", "tensorflow-model-optimization")
    versions = {}
    for package in packages:
        if find_spec(package.replace("-", "_")):
            versions[package] = version(package)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    typer.run(main)
