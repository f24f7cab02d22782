"""`kprune demo`: train, prune, strip, export and measure a small CNN on real digits."""

import contextlib
import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kprune._system import files
from kprune._system.packages import require_packages
from kprune._system.quiet import quiet
from kprune.export import ExportError, NotFasterWarning, export_onnx, export_tflite
from kprune.measure import benchmark
from kprune.pruning.allocation import Global
from kprune.pruning.patterns import Block
from kprune.report import plots, tables
from kprune.report.files import write_json
from kprune.report.tables import Printable
from kprune.runtimes.keras import Keras
from kprune.runtimes.litert import LiteRT
from kprune.runtimes.onnxruntime import OnnxRuntime
from kprune.training.pruning import Pruning
from kprune.training.strip import strip_pruning

_FORMATS = {".keras": "Keras", ".tflite": LiteRT.name, ".onnx": OnnxRuntime.name}
# What one training should take in all, so that the default run stays well below two minutes.
_STEPS = 700


@dataclass
class DemoRow:
    """One file: what it scores and costs in its runtime.

    `smaller` and `faster` compare it with the dense file of the same format. `latency` is the
    median of one example, in seconds; `sparsity` is that of the weights as stored in the file.
    """

    file: str
    runtime: str
    accuracy: float
    sparsity: float
    bytes: int
    gzipped_bytes: int
    smaller: float
    latency: float
    faster: float


@dataclass(repr=False)
class DemoReport(Printable):
    """What the demo measured; prints as a table."""

    data: str
    train_examples: int
    test_examples: int
    sparsity: float
    epochs: int
    seed: int
    seconds: float
    rows: list[DemoRow]
    notes: list[str]
    machine: dict

    def to_dict(self):
        """Return everything as plain data, ready for JSON."""
        return asdict(self)

    def __rich__(self):
        rows = self.rows
        key = {"file": [row.file for row in rows]}
        quality = {
            "runtime": [row.runtime for row in rows],
            ">accuracy": [tables.percent(row.accuracy) for row in rows],
            ">sparsity": [tables.percent(row.sparsity) for row in rows],
            ">size": [tables.size(row.bytes) for row in rows],
            ">smaller": [tables.ratio(row.smaller) for row in rows],
        }
        cost = {
            ">gzipped": [tables.size(row.gzipped_bytes) for row in rows],
            ">latency": [tables.milliseconds(row.latency) for row in rows],
            ">faster": [tables.ratio(row.faster) for row in rows],
        }
        title = (
            f"A CNN on {self.data}, dense and pruned to {tables.percent(self.sparsity)}: "
            f"accuracy on {self.test_examples:,} test images in each runtime"
        )
        return tables.Parts(key, (title, quality, []), ("Download and latency", cost, self.notes))

    def plot(self, path):
        """Draw accuracy, sizes and latency, dense against pruned, as bars."""
        rows = self.rows
        plots.bars(
            path,
            [row.file for row in rows],
            [
                ("accuracy, %", [100 * row.accuracy for row in rows]),
                ("size, MB", [row.bytes / 1e6 for row in rows]),
                ("gzipped, MB", [row.gzipped_bytes / 1e6 for row in rows]),
                ("latency, ms", [1000 * row.latency for row in rows]),
            ],
            title=f"{self.data}: dense, and pruned to {tables.percent(self.sparsity)}",
        )


def demo(out="kprune-demo", sparsity=0.9, epochs=None, seed=0, data=None):
    """Train a small CNN, prune it in further training, and measure the files of both models.

    The dense model is trained from random weights; the pruned one starts from the dense one's and
    is trained as long again, with one callback more. Written to `out`: `dense` and `pruned`, each
    as `.keras`, `.tflite` and `.onnx`, and `demo.json` and `demo.png`. Accuracy is that of the
    files, in their runtimes, on test images that training has not seen.

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
    name, train, test = _digits() if data is None else _load(data)
    batch_size = 32 if len(train[0]) < 10_000 else 128
    epochs = epochs or max(2, round(_STEPS * batch_size / len(train[0])))
    for package_format in ("tflite", "onnx"):
        require_packages(package_format)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plots.check(out / "demo.png")
    for suffix in (".json", *_FORMATS):  # before the long work, not after it
        for stem in ("demo",) if suffix == ".json" else ("dense", "pruned"):
            files.destination(out / f"{stem}{suffix}", suffix)
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
        accuracies, notes = {}, []
        with stage("Exporting and testing", 6) as advance:
            for model_name, model in models.items():
                for suffix in _FORMATS:
                    path = out / f"{model_name}{suffix}"
                    with quiet():
                        predict = _write(model, path, model_name == "pruned", notes)
                        accuracies[path.name] = float(np.mean(predict(test[0]) == test[1]))
                    advance()
        rows, machine = [], {}
        with stage("Measuring latency", 3) as advance:
            for suffix in _FORMATS:
                pair = [out / f"dense{suffix}", out / f"pruned{suffix}"]
                measured = benchmark(pair, seed=seed)
                rows += _rows(measured, accuracies)
                machine = {**measured.machine, "runtimes": machine.get("runtimes", {})}
                machine["runtimes"] |= measured.machine["runtimes"]
                advance()
    report = DemoReport(
        data=name,
        train_examples=len(train[0]),
        test_examples=len(test[0]),
        sparsity=sparsity,
        epochs=epochs,
        seed=seed,
        seconds=time.perf_counter() - start,
        rows=rows,
        notes=notes + _explain(rows),
        machine=machine,
    )
    write_json(out / "demo.json", report.to_dict())
    report.plot(out / "demo.png")
    return report


def _digits():
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The demo\'s digits come with scikit-learn. Install it with: pip install "kprune[demo]"'
            ", or give data of your own."
        ) from error
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    return "scikit-learn's digits", *_prepared(x_train, y_train, x_test, y_test)


def _load(path):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in keys]
    except Exception as error:
        raise ValueError(
            f"{path} must be an .npz file with the arrays {', '.join(keys)}, without pickles: "
            f"{error}"
        ) from error
    for key, array in zip(keys, arrays):
        good_x = array.ndim in (3, 4) and array.dtype.kind in "uif"
        good_y = array.ndim == 1 and array.dtype.kind in "ui"
        if not (good_x if key[0] == "x" else good_y) or len(array) == 0:
            raise ValueError(
                f"{path}: {key} must be "
                + ("images (n, height, width[, channels])" if key[0] == "x" else "integer classes")
                + f". Received: shape {array.shape}, dtype {array.dtype}"
            )
    for x, y, half in ((arrays[0], arrays[1], "train"), (arrays[2], arrays[3], "test")):
        if len(x) != len(y):
            raise ValueError(f"{path}: {len(x)} images and {len(y)} classes in x_{half}, y_{half}")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise ValueError(
            f"{path}: x_train and x_test must hold images of one size. Received: "
            f"{arrays[0].shape[1:]} and {arrays[2].shape[1:]}"
        )
    return path.stem, *_prepared(*arrays)


def _prepared(x_train, y_train, x_test, y_test):
    def images(x):
        x = x[..., None] if x.ndim == 3 else x
        return x.astype("float32") / np.float32(x_train.max() or 1)

    classes = [y.astype("int32") for y in (y_train, y_test)]
    return (images(x_train), classes[0]), (images(x_test), classes[1])


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


def _fit(model, data, batch_size, epochs, callbacks, advance):
    model.compile("adam", "sparse_categorical_crossentropy")
    shown = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: advance())
    x, y = data
    model.fit(x, y, batch_size, epochs, verbose=0, callbacks=[*callbacks, shown])


def _without_optimizer(model):
    """Return a copy without the optimizer, whose state is twice as large as the weights."""
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    return plain


def _write(model, path, sparse, notes):
    """Write one file; returns a function from images to classes that runs it in its runtime."""
    with warnings.catch_warnings():  # What the table says.
        warnings.simplefilter("ignore", NotFasterWarning)
        return _written(model, path, sparse, notes)


def _written(model, path, sparse, notes):
    if path.suffix == ".keras":
        with files.replacing(path, ".keras") as temporary:
            model.save(temporary)
        return _predict(Keras(path), 256)
    if path.suffix == ".onnx":
        export_onnx(model, path)
        runtime, batch = OnnxRuntime(path), 256
    else:
        try:
            export_tflite(model, path, sparse=sparse)
        except ExportError as error:
            if not sparse:
                raise
            export_tflite(model, path)
            notes.append(f"{path.name} is stored dense; its sparse form failed: {error}")
        runtime, batch = LiteRT(path), 1
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


def _rows(measured, accuracies):
    dense = measured.rows[0]
    for row in measured:
        path = Path(row.path)
        yield DemoRow(
            file=path.name,
            runtime=_FORMATS[path.suffix],
            accuracy=accuracies[path.name],
            sparsity=1 - row.nonzeros / row.parameters,
            bytes=row.bytes,
            gzipped_bytes=row.gzipped_bytes,
            smaller=dense.bytes / row.bytes,
            latency=row.median,
            faster=row.speedup,
        )


def _explain(rows):
    """Say what the figures show, and why: what each runtime does with zeros."""
    reasons = {
        ".keras": "Keras stores every zero and multiplies by it",
        ".tflite": "LiteRT has a sparse kernel for Dense layers pruned in blocks of (4, 1), and "
        "none for 3x3 convolutions; the file holds only what is not zero",
        ".onnx": "ONNX Runtime stores every zero and has no kernels for sparse weights",
    }
    notes = []
    for row in rows:
        stem, suffix = Path(row.file).stem, Path(row.file).suffix
        if stem != "pruned":
            continue
        # Below this, a shared machine's noise is as large.
        smaller = f"{row.smaller:.1f}x smaller" if row.smaller > 1.1 else "not smaller"
        faster = f"{row.faster:.1f}x faster" if row.faster > 1.1 else "not faster"
        reason = reasons[suffix]
        if suffix == ".tflite" and row.smaller <= 1.1:
            reason = "Its weights are stored dense, zeros and all"
        notes.append(f"{row.file}: {smaller}, {faster}. {reason}.")
    return notes


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


__all__ = ["DemoReport", "DemoRow", "demo"]
