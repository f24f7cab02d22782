"""Sparse variational dropout of LeNet-300-100 on MNIST: Molchanov et al. (2017), with kprune.

    python scripts/reproduce_variational.py --json out.json
    python scripts/reproduce_variational.py --validate --epochs 20

"Variational dropout sparsifies deep neural networks" leaves one weight in 68 of this network, at
1.92% test error. Here, it is trained from initial weights with
`kprune.training.sparse_variational_dropout` and `KLWarmUp`, and stripped. The compression is the
number of all weights, without biases, over that of weights that are not zero. The error is that on
the 10,000 test images after the last epoch; the recipe was chosen with `--validate`, which trains
on the first 55,000 training images and reports the error on the other 5,000.

The recipe: images scaled to [0, 1] and not augmented, no other dropout, Adam, a learning rate
that falls linearly to 0.

The data are those of `keras.datasets.mnist`, or of mnist.npz in `--data-dir` (KPRUNE_DATA_DIR).
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _progress import progress
from _start import start
from reproduce_mnist import Name, build

PUBLISHED = {"compression": 68, "error": 0.0192}
VALIDATION = 5_000
BATCH_SIZE = 100


def train(seed, data, epochs, learning_rate, warm_up, initial_log_sigma2, on_epoch):
    """Train a network; return the stripped model, its error, and the history of `fit`."""
    import keras

    import kprune

    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    model = kprune.training.sparse_variational_dropout(
        build(Name.MLP, dropout=0.0), initial_log_sigma2=initial_log_sigma2
    )
    steps = epochs * -(-len(x) // BATCH_SIZE)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.0)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # torch runs one step at a time.
        steps_per_execution=1 if keras.backend.backend() == "torch" else 50,
    )
    callbacks = [
        kprune.training.KLWarmUp(warm_up=warm_up),
        keras.callbacks.LambdaCallback(on_epoch_end=on_epoch),
    ]
    history = model.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=callbacks)
    model = kprune.strip_pruning(model)
    predicted = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=-1)
    return model, float(np.mean(predicted != y_test)), history.history


def reproduce(seeds, data, on_epoch, **recipe):
    """Train a network from each seed; return the figures as plain data."""
    from kprune.measure import sparsity

    runs = []
    for seed in range(seeds):
        begin = time.perf_counter()
        model, error, history = train(seed, data, on_epoch=on_epoch, **recipe)
        weights = [row for row in sparsity(model) if row.prunable]
        size, zeros = sum(row.size for row in weights), sum(row.zeros for row in weights)
        runs.append(
            {
                "seed": seed,
                "error": error,
                "weights": size,
                "left": size - zeros,
                "compression": size / (size - zeros) if size > zeros else None,
                "layers": [{"name": w.layer, "left": w.size - w.zeros} for w in weights],
                "seconds": time.perf_counter() - begin,
                "history": history,
            }
        )
    return {"recipe": recipe, "published": PUBLISHED, "runs": runs}


def show(console, found, of):
    """Print what was found: a row for each seed."""
    from kprune.report import tables

    rows = [
        (
            str(run["seed"]),
            tables.percent(run["error"]),
            f"{run['compression'] or float('inf'):.1f}x",
            tables.count(run["left"]),
            ", ".join(tables.count(layer["left"]) for layer in run["layers"]),
        )
        for run in found["runs"]
    ]
    published = found["published"]
    rows.append(
        (
            "Molchanov et al.",
            tables.percent(published["error"]),
            f"{published['compression']}x",
            "",
            "",
        )
    )
    columns = ["seed", ">error", ">compression", ">weights left", ">by layer"]
    title = f"LeNet-300-100: error on {of} after {found['recipe']['epochs']} epochs"
    console.print(tables.table(columns, rows, title=title))


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 1,
    epochs: Annotated[int, typer.Option(min=1)] = 40,
    learning_rate: Annotated[float, typer.Option(help="At the start.")] = 1e-3,
    warm_up: Annotated[float, typer.Option(min=0, max=1, help="Of KLWarmUp.")] = 0.5,
    initial_log_sigma2: Annotated[float, typer.Option()] = -10.0,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Train LeNet-300-100 with sparse variational dropout, and compare with the paper."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    with plain_errors():
        data = images("mnist", data_dir, validate, train_size, VALIDATION)
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    with progress("Training", seeds * epochs) as advance:
        found = reproduce(
            seeds,
            data,
            advance,
            epochs=epochs,
            learning_rate=learning_rate,
            warm_up=warm_up,
            initial_log_sigma2=initial_log_sigma2,
        )
    show(Console(), found, of)
    if json:
        write_json(json, {"error_on": of, **found})


if __name__ == "__main__":
    typer.run(main)
