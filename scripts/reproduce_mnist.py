"""LeNet-300-100 and LeNet-5 on MNIST, dense and pruned: Han et al. (2015), with kprune.

    python scripts/reproduce_mnist.py --json out.json
    python scripts/reproduce_mnist.py --model lenet-5 --seeds 1 --sparsity 0.95

"Learning both weights and connections for efficient neural networks" prunes these two networks
to 8% of their weights (12x), from 1.64% to 1.59% and from 0.80% to 0.77% test error. Here, each
is trained twice from the same initial weights, with the same recipe and number of epochs: as it
is, and with `kprune.Pruning` added to the callbacks. The error is that on the 10,000 test images
after the last epoch, which no decision depends on; recipes were chosen with `--validate`, which
trains on the first 50,000 training images and reports the error on the other 10,000.

The recipe: images scaled to [0, 1] and not augmented, Adam, a learning rate that falls along a
cosine to 0, dropout, no weight decay; sparsity rises from 10% to 50% of the steps, over
all weights of the network together (`kprune.Global`). LeNet-5 is Caffe's (20 and 50 convolutions
of 5 x 5, 500 hidden units), with ReLU after the convolutions too.

The data are those of `keras.datasets.mnist`, or of mnist.npz in `--data-dir` (KPRUNE_DATA_DIR).
"""

import enum
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _progress import progress
from _start import start


class Name(enum.StrEnum):
    """The networks."""

    MLP = "lenet-300-100"
    CNN = "lenet-5"


@dataclass
class Recipe:
    """How a network is trained; `published` is Han et al.'s error, dense and pruned."""

    published: tuple
    epochs: int
    dropout: float
    batch_size: int = 128
    learning_rate: float = 2e-3


RECIPES = {
    Name.MLP: Recipe((0.0164, 0.0159), epochs=20, dropout=0.2),
    Name.CNN: Recipe((0.0080, 0.0077), epochs=10, dropout=0.5),
}


def build(name, dropout):
    """Return the network, not compiled; its outputs are logits."""
    import keras

    layers = keras.layers
    if name == Name.MLP:
        body = [
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="fc1"),
            layers.Dropout(dropout),
            layers.Dense(100, activation="relu", name="fc2"),
            layers.Dropout(dropout),
            layers.Dense(10, name="fc3"),
        ]
    else:
        body = [
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dropout(dropout),
            layers.Dense(10, name="fc2"),
        ]
    return keras.Sequential([layers.Input((28, 28, 1)), *body], name=name.replace("-", "_"))


def train(name, seed, sparsity, data, epochs, on_epoch):
    """Train one network for all its epochs; dense where `sparsity` is None.

    Returns:
        `(model, error)`: the stripped model and the share of held-out images it gets wrong.
    """
    import keras

    import kprune

    recipe = RECIPES[name]
    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    model = build(name, recipe.dropout)
    steps = epochs * -(-len(x) // recipe.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    # XLA makes convolutions slower on CPUs; torch runs one step at a time.
    backend = keras.backend.backend()
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if backend == "tensorflow" else "auto",
        steps_per_execution=1 if backend == "torch" else 20,
    )
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)]
    if sparsity is not None:
        callbacks.append(kprune.Pruning(sparsity, allocation=kprune.Global(), end=0.5))
    model.fit(x, y, recipe.batch_size, epochs, verbose=0, callbacks=callbacks)
    if sparsity is not None:
        model = kprune.strip_pruning(model)
    predicted = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=-1)
    return model, float(np.mean(predicted != y_test))


def reproduce(name, seeds, sparsity, data, epochs, on_epoch):
    """Train a network dense and pruned from each seed; return the figures as plain data."""
    from kprune.measure import sparsity as measure

    runs = []
    for seed in range(seeds):
        begin = time.perf_counter()
        _, dense_error = train(name, seed, None, data, epochs, on_epoch)
        model, pruned_error = train(name, seed, sparsity, data, epochs, on_epoch)
        weights = [row for row in measure(model) if row.prunable]
        runs.append(
            {
                "seed": seed,
                "dense_error": dense_error,
                "pruned_error": pruned_error,
                "zeros": sum(row.zeros for row in weights),
                "weights": sum(row.size for row in weights),
                "layers": [
                    {"name": row.layer, "weights": row.size, "zeros": row.zeros} for row in weights
                ],
                "seconds": time.perf_counter() - begin,
            }
        )
    return {
        "model": str(name),
        "sparsity": sparsity,
        "epochs": epochs,
        "dense_error": statistics.fmean(run["dense_error"] for run in runs),
        "pruned_error": statistics.fmean(run["pruned_error"] for run in runs),
        "published": RECIPES[name].published,
        "runs": runs,
    }


def show(console, found, of):
    """Print what was found: a row for each seed, then the layers."""
    from kprune.report import tables

    def row(label, dense, pruned, zeros, weights):
        kept = "" if zeros is None else tables.count(weights - zeros)
        share = "" if zeros is None else tables.percent(zeros / weights)
        return label, tables.percent(dense), tables.percent(pruned), kept, share

    rows = [
        row(
            str(run["seed"]), *(run[k] for k in ("dense_error", "pruned_error", "zeros", "weights"))
        )
        for run in found["runs"]
    ]
    mean = row("mean", found["dense_error"], found["pruned_error"], None, None)
    published = row("Han et al.", *found["published"], None, None)
    columns = ["seed", ">dense error", ">pruned error", ">weights left", ">sparsity"]
    title = f"{found['model']}: error on {of} after the last of {found['epochs']} epochs"
    console.print(tables.table(columns, [*rows, published], title=title, total=mean))
    layers = {}
    for run in found["runs"]:
        for layer in run["layers"]:
            layers.setdefault((layer["name"], layer["weights"]), []).append(layer["zeros"])
    rows = [
        (
            name,
            tables.count(size),
            *map(tables.count, zeros),
            tables.percent(sum(zeros) / len(zeros) / size),
        )
        for (name, size), zeros in layers.items()
    ]
    seeds = [f">zeros, seed {run['seed']}" for run in found["runs"]]
    columns = ["weight", ">size", *seeds, ">sparsity"]
    console.print(tables.table(columns, rows, title=f"{found['model']}: zeros in each weight"))


def main(
    model: Annotated[list[Name] | None, typer.Option(help="Both by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    sparsity: Annotated[float, typer.Option(help="Over all weights of the network.")] = 0.92,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Train LeNets on MNIST, dense and pruned, and compare their errors with the published."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.pruning.schedules import check_sparsity
    from kprune.report.files import write_json

    with plain_errors():
        check_sparsity(sparsity)
        data = images("mnist", data_dir, validate, train_size)
    console, results = Console(), []
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    for name in model or list(Name):
        count = epochs or RECIPES[name].epochs
        with progress(f"Training {name}", 2 * seeds * count) as advance:
            found = reproduce(name, seeds, sparsity, data, count, advance)
        show(console, found, of)
        results.append(found)
    if json:
        write_json(json, {"error_on": of, "results": results})


if __name__ == "__main__":
    typer.run(main)
