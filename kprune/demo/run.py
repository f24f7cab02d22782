"""`kprune demo`: train, prune, optimize, export and measure a small CNN on real digits."""

import contextlib
import os
import shutil
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kprune._system import files
from kprune._system.packages import require_packages
from kprune._system.quiet import quiet
from kprune.demo.data import digits, load
from kprune.demo.report import FORMATS, STEMS, DemoReport, explain, table_rows
from kprune.export import ExportError, NotFasterWarning, export_onnx, export_tflite
from kprune.measure import benchmark
from kprune.pruning.allocation import Global
from kprune.pruning.patterns import Block
from kprune.report import plots
from kprune.report.files import write_json
from kprune.runtimes.keras import Keras
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.search import optimize
from kprune.search.stopwatch import local_litert
from kprune.training.pruning import Pruning
from kprune.training.strip import strip_pruning

# What one training should take in all, so that the default run stays well below two minutes.
_STEPS = 700
_ROUNDS = 5  # Of each search.
_MAX_DROP = 0.01
_TUNING_RATE = 5e-4


def demo(out="kprune-demo", sparsity=0.9, epochs=None, seed=0, data=None):
    """Train a small CNN, compress it in two ways, and measure the files of all three.

    The dense model is trained from random weights. The pruned one starts from it and is trained as
    long again, with one callback more. The optimized ones are what `kprune.optimize` finds for
    each runtime in a few short rounds. Written to `out`: `dense`, `pruned` and `optimized`, each
    as `.keras`, `.tflite` and `.onnx`, the rounds of the searches in folders beside them, and
    `demo.json` and `demo.png`. Accuracy is that of the files, in their runtimes, on test images
    that neither training nor the searches have seen.

    Example:

    >>> report = kprune.demo.demo("out")
    >>> print(report)

    Args:
        out: folder for the files; made if it is not there.
        sparsity: float in [0, 1), what the pruned model ends at.
        epochs: int, of each training; by default as many as make some 700 steps, at least 2.
        seed: int, of the weights and the order of batches.
        data: path of an `.npz` with `x_train`, `y_train`, `x_test`, `y_test`: images of shape
            (n, height, width) or (n, height, width, channels) and integer classes. By default
            scikit-learn's 1,797 digits, a fifth of which is kept for the test.

    Returns:
        A `DemoReport`.

    Raises:
        ValueError: `sparsity` or `epochs` out of range, or data of another kind.
        FileNotFoundError: no such data file.
        ImportError: a package is missing.
    """
    start = time.perf_counter()
    # Blocks of (4, 1) are what LiteRT has a sparse kernel for, in Dense layers. `Global` lets the
    # first convolution, 144 weights that all others build on, keep more of them.
    pruning = Pruning(sparsity, allocation=Global(), layers={keras.layers.Dense: Block((4, 1))})
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"`epochs` must be a positive int. Received: epochs={epochs!r}")
    name, train, test = digits() if data is None else load(data)
    batch_size = 32 if len(train[0]) < 10_000 else 128
    epochs = epochs or max(2, round(_STEPS * batch_size / len(train[0])))
    out = _checked(out)
    with _stages() as stage:
        with stage("Starting Keras"), quiet():  # the first operation makes libraries talk
            keras.utils.set_random_seed(seed)
            keras.ops.convert_to_numpy(keras.ops.zeros(1))
        models = {"dense": _build(train[0].shape[1:], int(train[1].max()) + 1)}
        with stage("Training dense", epochs) as advance:
            _fit(models["dense"], train, batch_size, epochs, [], advance)
        models["pruned"] = keras.models.clone_model(models["dense"])
        models["pruned"].set_weights(models["dense"].get_weights())
        with stage("Training pruned", epochs) as advance:
            _fit(models["pruned"], train, batch_size, epochs, [pruning], advance)
        models["pruned"] = strip_pruning(models["pruned"])
        models = {key: _without_optimizer(model) for key, model in models.items()}
        notes = []
        for model_name, model in models.items():
            with stage(f"Exporting {model_name}", 3) as advance:
                for suffix in FORMATS:
                    with quiet():
                        _write(model, out / f"{model_name}{suffix}", model_name == "pruned", notes)
                    advance()
        found = _optimize(models["dense"], train, batch_size, epochs, out, seed, stage)
        rows, machine = _measure(out, test, seed, stage)
    report = DemoReport(
        data=name,
        train_examples=len(train[0]),
        test_examples=len(test[0]),
        sparsity=sparsity,
        epochs=epochs,
        seed=seed,
        seconds=time.perf_counter() - start,
        rows=rows,
        notes=notes + explain(rows, found),
        machine=machine,
    )
    write_json(out / "demo.json", report.to_dict())
    report.plot(out / "demo.png")
    return report


def _checked(out):
    """Return the folder, made, in which everything can be written."""
    for package_format in ("tflite", "onnx"):
        require_packages(package_format)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plots.check(out / "demo.png")
    files.destination(out / "demo.json", ".json")
    for suffix in FORMATS:  # before the long work, not after it
        for stem in STEMS:
            files.destination(out / f"{stem}{suffix}", suffix)
    return out


def _optimize(dense, train, batch_size, epochs, out, seed, stage):
    """Search for the best file of each runtime; return {name: what is left in it}."""
    x, y = train
    held_out = len(x) // 6
    kept, judged = (x[held_out:], y[held_out:]), (x[:held_out], y[:held_out])
    found = {}
    for suffix, target in ((".tflite", local_litert()), (".onnx", "onnxruntime")):
        with stage(f"Optimizing for {FORMATS[suffix]}", _ROUNDS) as advance:

            def fit(model, callbacks, advance=advance):
                tuning = max(1, epochs // 2)
                _fit(model, kept, batch_size, tuning, callbacks, lambda: None, _TUNING_RATE)
                advance()

            def evaluate(model):
                return np.mean(model.predict(judged[0], verbose=0).argmax(-1) == judged[1])

            folder = out / f"search-{target}"
            shutil.rmtree(folder, ignore_errors=True)  # Of an earlier demo, with other arguments.
            result = optimize(
                dense, target, fit, evaluate, max_drop=_MAX_DROP, data=kept[0][:200], out=folder,
                rounds=_ROUNDS, seed=seed, verbose=False,
            )  # fmt: skip
            best = result.best
            shutil.copyfile(best.path, out / f"optimized{suffix}")
            found[f"optimized{suffix}"] = best.step
            if suffix == ".onnx":
                shutil.copyfile(best.model, out / "optimized.keras")
                found["optimized.keras"] = (
                    f"the model that optimized{suffix} was made from, {best.step}"
                )
    return found


def _measure(out, test, seed, stage):
    """Return the `DemoRow`s of all files, and the machine with the runtimes' versions."""
    rows, machine = [], {}
    with stage("Testing and measuring latency", len(FORMATS)) as advance:
        for suffix in FORMATS:
            paths = [out / f"{stem}{suffix}" for stem in STEMS]
            with quiet():
                accuracies = [float(np.mean(_run(path)(test[0]) == test[1])) for path in paths]
            measured = benchmark(paths, seed=seed)
            rows += table_rows(measured, accuracies)
            machine = {**measured.machine, "runtimes": machine.get("runtimes", {})}
            machine["runtimes"] |= measured.machine["runtimes"]
            advance()
    return rows, machine


def _build(shape, classes):
    layers = keras.layers
    stack = [keras.Input(shape, name="image")]
    side = max(shape[:2])
    for filters in (16, 32):
        stack += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
        if side > 4:
            stack.append(layers.MaxPooling2D(padding="same"))
            side = -(-side // 2)
    while side > 4:
        stack.append(layers.MaxPooling2D(padding="same"))
        side = -(-side // 2)
    stack += [
        layers.Flatten(),
        layers.Dense(1024, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(classes, activation="softmax", name="classes"),
    ]
    return keras.Sequential(stack, name="demo")


def _fit(model, data, batch_size, epochs, callbacks, advance, rate=1e-3):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    shown = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: advance())
    x, y = data
    model.fit(x, y, batch_size, epochs, verbose=0, callbacks=[*callbacks, shown])


def _without_optimizer(model):
    """Return a copy without the optimizer, whose state is twice as large as the weights."""
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    return plain


def _write(model, path, sparse, notes):
    """Write one file."""
    with warnings.catch_warnings():  # What the table says.
        warnings.simplefilter("ignore", NotFasterWarning)
        if path.suffix == ".keras":
            with files.replacing(path, ".keras") as temporary:
                model.save(temporary)
        elif path.suffix == ".onnx":
            export_onnx(model, path)
        else:
            try:
                export_tflite(model, path, sparse=sparse)
            except ExportError as error:
                if not sparse:
                    raise
                export_tflite(model, path)
                notes.append(f"{path.name} is stored dense; its sparse form failed: {error}")


def _run(path):
    """Return a function from images to classes that runs a file in its runtime."""
    if path.suffix == ".keras":
        return _predict(Keras(path), 256)
    runtime, batch = (OnnxRuntime(path), 256) if path.suffix == ".onnx" else (LiteRT(path), 1)
    (name,) = runtime.inputs

    def run(x):
        (scores,) = runtime({name: x}).values()
        return scores

    return _predict(run, batch)


def _predict(run, batch):
    """Return a function from images to classes, of one from so many images to their scores."""

    def predict(x):
        scores = [run(x[i : i + batch]) for i in range(0, len(x), batch)]
        return np.concatenate(scores).argmax(-1)

    return predict


@contextlib.contextmanager
def _stages():
    """Show each stage of the work on standard error, on a descriptor that `quiet` leaves alone."""
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(os.fdopen(os.dup(2), "w"))
        console = Console(file=terminal)
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))

        @contextlib.contextmanager
        def stage(description, total=1):
            task = progress.add_task(description, total=total)
            begin = time.perf_counter()
            yield lambda: progress.advance(task)
            progress.update(task, completed=total)
            if not console.is_terminal:
                print(f"{description}: {time.perf_counter() - begin:.0f} s", file=terminal)

        yield stage
