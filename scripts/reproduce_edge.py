"""LeNets on MNIST with as few weights as the records have: 68x and 111x fewer.

    python scripts/reproduce_edge.py --json out.json
    python scripts/reproduce_edge.py --model lenet-5 --seeds 1 --ratio 280

Sparse variational dropout (Molchanov et al., 2017) leaves 1/68 of LeNet-300-100's weights at
1.92% test error, and 1/280 of LeNet-5's at 0.75%; dynamic network surgery (Guo et al., 2016) 1/56
at 1.99%, and 1/108 at 0.91%. Here each network is trained dense and, from the same initial
weights, pruned over all of its weights together (`kprune.Global`): `plain`, and `pruned` with
regrowth by gradients (`kprune.pruning.RigL`). Weights are counted as the records do: kernels,
without biases. The error is that on the 10,000 test images after the last epoch, which no
decision depends on. LeNet-300-100's recipe was chosen by a dozen single trainings with 5,000
of the training images held out, as `--validate` does, of one seed; LeNet-5's was taken over from
it, without regrowth, and with a number of epochs that was tried once so.

The recipe: Adam, a learning rate that falls along a cosine to 0, dropout in the dense network
alone; every training image is moved by up to one pixel each way, again in each epoch; sparsity
rises from 10% to 50% of the steps.

The data are those of `keras.datasets.mnist`, or of mnist.npz in `--data-dir` (KPRUNE_DATA_DIR).
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images, shifted
from _progress import progress
from _start import start
from reproduce_mnist import Name, build

VALIDATION = 5_000
ARMS = ("dense", "plain", "pruned")
REGROWTH = 0.5  # The share of what is kept that gradients choose at first.


@dataclass
class Recipe:
    """How a network is trained; `published` are ratios and errors of the records."""

    published: dict
    ratio: float
    epochs: int
    dropout: float  # The dense network's.
    batch_size: int = 128
    learning_rate: float = 2e-3
    arms: tuple = ARMS


RECIPES = {
    Name.MLP: Recipe(
        {"Sparse VD": (68, 0.0192), "DNS": (56, 0.0199)}, ratio=68, epochs=100, dropout=0.1
    ),
    Name.CNN: Recipe(
        {"Sparse VD": (280, 0.0075), "DNS": (108, 0.0091)},
        ratio=111,
        epochs=30,
        dropout=0.3,
        arms=("dense", "plain"),
    ),
}


def fit(model, name, data, seed, epochs, callbacks):
    """Train a model; return the share of held-out images it gets wrong."""
    import keras

    recipe, ((x, y), (x_test, y_test)) = RECIPES[name], data
    batches = shifted(x, y, recipe.batch_size, seed)
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, epochs * len(batches))
    backend = keras.backend.backend()
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if backend == "tensorflow" else "auto",
        steps_per_execution=1 if backend == "torch" else 20,
    )
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)
    predicted = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=-1)
    return float(np.mean(predicted != y_test))


def run(name, seed, ratio, data, epochs, arms, on_epoch):
    """Train a network once for each arm; return the figures as plain data."""
    import keras

    import kprune

    begin, found = time.perf_counter(), {}
    for arm in arms:
        keras.utils.set_random_seed(seed)
        model = build(name, RECIPES[name].dropout if arm == "dense" else 0.0)
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)]
        if arm != "dense":
            regrowth = kprune.pruning.RigL(REGROWTH) if arm == "pruned" else None
            sparsity = 1 - 1 / ratio
            callbacks.append(
                kprune.Pruning(sparsity, allocation=kprune.Global(), end=0.5, regrowth=regrowth)
            )
        found[arm] = fit(model, name, data, seed, epochs, callbacks)
        if arm != "dense":
            model = kprune.strip_pruning(model)
    kernels = [value for value in model.get_weights() if value.ndim > 1]
    left = [int(np.count_nonzero(kernel)) for kernel in kernels]
    return {
        "seed": seed,
        "errors": found,
        "left": left,
        "ratio": sum(kernel.size for kernel in kernels) / sum(left),
        "seconds": time.perf_counter() - begin,
    }


def show(console, name, found, of):
    """Print a row for each seed, their mean, and the published."""
    from kprune.report import tables

    arms = list(found["errors"])
    rows = [
        (
            str(run["seed"]),
            *(tables.percent(run["errors"][arm]) for arm in arms),
            f"{run['ratio']:.1f}x",
            " + ".join(map(tables.count, run["left"])),
        )
        for run in found["runs"]
    ]
    mean = ("mean", *(tables.percent(found["errors"][arm]) for arm in arms), "", "")
    rows += [
        (who, *[""] * (len(arms) - 1), tables.percent(error), f"{ratio}x", "")
        for who, (ratio, error) in RECIPES[name].published.items()
    ]
    columns = ["seed", *(f">{arm}" for arm in arms), ">fewer weights", ">weights left"]
    title = f"{name}: error on {of} after the last of {found['epochs']} epochs"
    console.print(tables.table(columns, rows, title=title, total=mean))


def main(
    model: Annotated[list[Name] | None, typer.Option(help="Both by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    ratio: Annotated[
        float | None, typer.Option(help="How many times fewer weights; by default the records'.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    arms: Annotated[
        str | None, typer.Option(help="Of dense,plain,pruned; by default the recipe's.")
    ] = None,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Prune LeNets as far as the records go, and compare the errors."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    with plain_errors():
        if ratio is not None and not ratio > 1:
            raise ValueError(f"--ratio must be above 1. Received: {ratio}")
        tried = arms.split(",") if arms else None
        if not set(tried or ()) <= set(ARMS):
            raise ValueError(f"--arms are of {', '.join(ARMS)}. Received: {arms}")
        data = images("mnist", data_dir, validate, train_size, VALIDATION)
    console, results = Console(), []
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    for name in model or list(Name):
        recipe = RECIPES[name]
        count, fewer = epochs or recipe.epochs, ratio or recipe.ratio
        own = tried or recipe.arms
        with progress(f"Training {name}", len(own) * seeds * count) as advance:
            runs = [run(name, seed, fewer, data, count, own, advance) for seed in range(seeds)]
        means = {arm: statistics.fmean(one["errors"][arm] for one in runs) for arm in own}
        found = {"model": str(name), "epochs": count, "ratio": fewer, "errors": means, "runs": runs}
        show(console, name, found, of)
        results.append(found)
    if json:
        write_json(json, {"error_on": of, "results": results})


if __name__ == "__main__":
    typer.run(main)
