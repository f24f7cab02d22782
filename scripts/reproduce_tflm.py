"""Networks for microcontrollers: their files' size, memory and error in TensorFlow Lite Micro.

    python scripts/reproduce_tflm.py --json out.json
    python scripts/reproduce_tflm.py --network lenet-5 --seed 1

- lenet-5: Caffe's, on MNIST. It is trained dense, exported, and trained on with
  `kprune.WeightClustering`, so that each kernel has 16 values; then its file has 4 bits a weight,
  in TensorFlow Lite Micro's own lookup tables, without gzip.
- lstm, gru: 32 units and a dense layer, on Japanese vowels (nine speakers; 25 steps of 12
  numbers), the size of a keyword spotter. They are unrolled over time.

Every file is run in TensorFlow Lite Micro's interpreter, with its portable kernels, on all test
examples, which no decision depends on. The arena is the memory that it needs there, on this
machine.

The recipe of lenet-5: Adam, a learning rate that falls along a cosine to 0 in each of the two
stages, dropout in the first; every training image is moved by up to one pixel each way.

The data are those of `keras.datasets.mnist`, or of mnist.npz in `--data-dir` (KPRUNE_DATA_DIR),
where japanese_vowels.npz must be.
"""

import enum
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from _data import images, shifted
from _progress import progress
from _start import start
from reproduce_mnist import Name, build
from reproduce_optimize import vowels

CLUSTERS, BATCH_SIZE, CALIBRATED = 16, 128, 512
# (epochs, the highest learning rate) of training, and of training with clustered weights.
STAGES = {"lenet-5": ((10, 2e-3), (2, 5e-4)), "lstm": ((60, 5e-3),), "gru": ((60, 5e-3),)}


class Network(enum.StrEnum):
    """What is trained."""

    LENET = "lenet-5"
    LSTM = "lstm"
    GRU = "gru"


def train(model, batches, epochs, learning_rate, callbacks):
    """Train a model, with a learning rate that falls along a cosine to 0."""
    import keras

    rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(batches))
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # XLA makes convolutions slower on CPUs.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)


def error(path, x, y):
    """Return the share of examples that a file gets wrong in TensorFlow Lite Micro."""
    from kprune.runtimes.tflm import TFLM

    file = TFLM(path)
    (name,) = file.inputs
    wrong = 0
    for example, label in zip(x, y):
        (scores,) = file({name: example[None]}).values()
        wrong += int(scores.argmax() != label)
    return wrong / len(x)


def export(model, path, quantize, data):
    """Export a model and run its file; return the figures as plain data."""
    import kprune

    (x, _), (x_test, y_test) = data
    calibration = x[:CALIBRATED] if quantize == "int8" else x[:16]
    report = kprune.export_tflite(
        model, path, quantize=quantize, target="tflm", representative_data=calibration
    )
    begin = time.perf_counter()
    return {
        "file": path.name,
        "error": error(path, x_test, y_test),
        "seconds_a_run": (time.perf_counter() - begin) / len(x_test),
        "report": report.to_dict(),
    }


def lenet(seed, stages, data, folder, on_epoch):
    """Train LeNet-5, cluster it, and export both."""
    import keras

    import kprune

    keras.utils.set_random_seed(seed)
    model = build(Name.CNN, dropout=0.3)
    advance = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    found = []
    for name, (epochs, rate), own in zip(
        ("dense", "clustered"), stages, ([], [kprune.WeightClustering(CLUSTERS)])
    ):
        train(model, shifted(*data[0], BATCH_SIZE, seed), epochs, rate, [*own, advance])
        for quantize in (None if name == "dense" else "codebook", "int8"):
            path = folder / f"lenet-5-{name}-{quantize or 'float32'}.tflite"
            found.append(export(model, path, quantize, data))
    return found


def recurrent(network, seed, stages, data, folder, on_epoch):
    """Train a recurrent network, and export it in float32 and in int8."""
    import keras

    keras.utils.set_random_seed(seed)
    layer = keras.layers.LSTM if network == Network.LSTM else keras.layers.GRU
    (x, y), _ = data
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), layer(32), keras.layers.Dropout(0.3), keras.layers.Dense(9)]
    )

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return -(-len(x) // 16)

        def __getitem__(self, i):
            return x[i * 16 : (i + 1) * 16], y[i * 16 : (i + 1) * 16]

    advance = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    train(model, Batches(), *stages[0], [advance])
    paths = {q: folder / f"{network}-{q or 'float32'}.tflite" for q in (None, "int8")}
    return [export(model, path, quantize, data) for quantize, path in paths.items()]


def show(console, network, found, of):
    """Print a row for each file."""
    from kprune.report import tables

    first = found[0]["report"]["bytes"]
    rows = [
        (
            run["file"].removeprefix(f"{network}-").removesuffix(".tflite"),
            tables.size(run["report"]["bytes"]),
            f"{run['report']['bytes'] / first:.3f}x",
            tables.size(run["report"]["arena_bytes"]),
            tables.percent(run["error"]),
            tables.milliseconds(run["seconds_a_run"]),
        )
        for run in found
    ]
    columns = ["file", ">size", ">of float32", ">arena", ">error", ">a run here"]
    title = f"{network}: files in TensorFlow Lite Micro, errors on {of:,} test examples"
    console.print(tables.table(columns, rows, title=title))


def main(
    network: Annotated[list[Network] | None, typer.Option(help="All by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each stage, instead.")] = None,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where the .npz files are.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="A folder to keep the files in.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Train small networks, and run their files in TensorFlow Lite Micro."""
    start()
    from rich.console import Console

    from kprune._system.packages import require_packages
    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    chosen, console, results = network or list(Network), Console(), []
    with plain_errors():
        require_packages("tflm")
        if data_dir is None and set(chosen) != {Network.LENET}:
            raise ValueError("lstm and gru need --data-dir, where japanese_vowels.npz is.")
    for name in chosen:
        stages = tuple((epochs or count, rate) for count, rate in STAGES[name])
        bar = progress(f"Training {name}", sum(count for count, _ in stages))
        with bar as advance, tempfile.TemporaryDirectory() as temporary:
            folder = keep or Path(temporary)
            if name == Network.LENET:
                data = images("mnist", data_dir, train_size=train_size)
                found = lenet(seed, stages, data, folder, advance)
            else:
                fit, _, test = vowels(data_dir)
                found = recurrent(name, seed, stages, (fit, test), folder, advance)
        show(console, name, found, len(data[1][1] if name == Network.LENET else test[1]))
        results.append({"network": str(name), "seed": seed, "files": found})
    if json:
        write_json(json, {"results": results})


if __name__ == "__main__":
    typer.run(main)
