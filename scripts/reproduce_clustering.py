"""Weight clustering of an MLP, by kprune's two doors and by TFMOT: accuracy with few values.

    python scripts/reproduce_clustering.py --data-dir folder --json out.json
    python scripts/reproduce_clustering.py --seeds 1 --values 2

Each seed trains an MLP on the first training images, dense and with 80% of each kernel zero. From
these weights on, each arm trains the same number of epochs with a few values in each kernel:
`kprune.WeightSharing`, `kprune.cluster_weights`, and TFMOT's `cluster_weights`, on tf_keras, in a
process of its own (`pip install 'kprune[tfmot]'`). Sparse, the values are those besides zero, and
TFMOT's way is `preserve_sparsity` with one cluster more. The accuracies are those on all test
images after the last epoch; `--validate` takes the last 10,000 training images instead.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _progress import progress

BATCH, RATE = 128, 1e-3
SPARSITY = 0.8
DOORS = ("WeightSharing", "cluster_weights", "TFMOT")
_CHILD = "KPRUNE_CLUSTERING_CHILD"


def build(keras, optimizer="adam"):
    """Return the MLP, compiled; the same in Keras 3 and in tf_keras."""
    dense = keras.layers.Dense
    hidden = [dense(100, activation="relu"), dense(50, activation="relu")]
    model = keras.Sequential([keras.layers.InputLayer((784,)), *hidden, dense(10)])
    compile_model(keras, model, optimizer)
    return model


def compile_model(keras, model, optimizer):
    """Compile a model to be trained or measured."""
    model.compile(
        keras.optimizers.Adam(RATE) if optimizer == "adam" else keras.optimizers.SGD(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def base_weights(seed, data, sparse, epochs):
    """Return the weights of a trained MLP, a list of arrays."""
    import keras

    import kprune

    keras.utils.set_random_seed(seed)
    model = build(keras)
    callbacks = [kprune.Pruning(SPARSITY)] if sparse else []
    model.fit(*data[0], BATCH, epochs, verbose=0, callbacks=callbacks)
    return model.get_weights()


def clustered(door, seed, weights, data, sparse, values, epochs, optimizer):
    """Return the accuracy after training with a few values, by one of `DOORS`."""
    if door == "TFMOT":
        import tensorflow_model_optimization as tfmot
        import tf_keras as keras

        cluster, strip = tfmot.clustering.keras.cluster_weights, None
        # In 0.8.1 the argument is in this one only.
        cluster = tfmot.clustering.keras.experimental.cluster_weights
        strip = tfmot.clustering.keras.strip_clustering
    else:
        import keras

        import kprune

        cluster, strip = kprune.cluster_weights, kprune.strip_clustering
    keras.utils.set_random_seed(seed)
    model = build(keras, optimizer)
    model.set_weights(weights)
    if door == "WeightSharing":
        callbacks = [kprune.WeightSharing(values)]
        model.fit(*data[0], BATCH, epochs, verbose=0, callbacks=callbacks)
    else:
        model = cluster(model, values + sparse, preserve_sparsity=sparse)
        compile_model(keras, model, optimizer)
        model.fit(*data[0], BATCH, epochs, verbose=0)
        model = strip(model)
        compile_model(keras, model, optimizer)
    for value in model.get_weights():
        if value.ndim == 2 and len(np.unique(value[value != 0])) > values:
            raise AssertionError(f"{door}: a kernel has {len(np.unique(value))} values")
    return float(model.evaluate(*data[1], verbose=0)[1])


def child(folder):
    """Run TFMOT's arms on what the parent wrote to a folder."""
    with np.load(folder / "data.npz") as arrays:
        data = [(arrays["x"], arrays["y"]), (arrays["x_test"], arrays["y_test"])]
    with np.load(folder / "arguments.npz") as arrays:
        seed, sparse, values, epochs = (int(each) for each in arrays["numbers"])
        optimizer = str(arrays["optimizer"])
        weights = [arrays[f"weight_{i}"] for i in range(6)]
    found = clustered("TFMOT", seed, weights, data, bool(sparse), values, epochs, optimizer)
    (folder / "accuracy").write_text(str(found))


def by_tfmot(folder, seed, weights, sparse, values, epochs, optimizer):
    """Return TFMOT's accuracy, from a process with tf_keras."""
    arrays = {f"weight_{i}": value for i, value in enumerate(weights)}
    numbers = [seed, sparse, values, epochs]
    np.savez(folder / "arguments.npz", numbers=numbers, optimizer=optimizer, **arrays)
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", _CHILD: str(folder)}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float((folder / "accuracy").read_text())


def show(results, of):
    """Print the mean accuracy of each door, and the spread over seeds."""
    from rich.console import Console

    from kprune.report import tables

    def cell(run, door):
        found = run["accuracies"].get(door, [])
        if not found:
            return tables.MISSING
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        return f"{statistics.fmean(found):.2%} ± {spread:.2%}"

    def row(run):
        zeros = "80%" if run["sparse"] else "0%"
        return zeros, str(run["values"]), f"{run['base']:.2%}", *(cell(run, d) for d in DOORS)

    rows = [row(run) for run in results]
    columns = ["zeros", ">values", ">before", *(f">{door}" for door in DOORS)]
    Console().print(tables.table(columns, rows, title=f"accuracy on {of}, mean of seeds"))


def main(
    data_set: Annotated[str, typer.Option(help="mnist or fashion_mnist.")] = "mnist",
    values: Annotated[list[int] | None, typer.Option(help="2, 4 and 16 by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    epochs: Annotated[tuple[int, int], typer.Option(help="Before, and clustered.")] = (4, 2),
    optimizer: Annotated[str, typer.Option(help="adam or sgd, of the clustered stage.")] = "adam",
    tfmot: Annotated[bool, typer.Option(help="Whether TFMOT runs, too.")] = True,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int, typer.Option(min=1, help="Only the first images.")] = 20_000,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where <data set>.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Cluster an MLP by each door, with 2, 4 and 16 values, dense and 80% sparse."""
    from _start import start

    start()
    from kprune.report.files import write_json

    data = images(data_set, data_dir, validate, train_size)
    data = [(x.reshape(len(x), -1), y) for x, y in data]
    values, results = values or [2, 4, 16], []
    doors = DOORS if tfmot else DOORS[:2]
    runs = [(sparse, number) for sparse in (False, True) for number in values]
    bar = progress("Clustering", seeds * len(runs) * len(doors))
    with tempfile.TemporaryDirectory() as folder, bar as advance:
        folder = Path(folder)
        (x, y), (x_test, y_test) = data
        np.savez(folder / "data.npz", x=x, y=y, x_test=x_test, y_test=y_test)
        for sparse in (False, True):
            bases = [base_weights(seed, data, sparse, epochs[0]) for seed in range(seeds)]
            before = statistics.fmean(measured(base, data) for base in bases)
            for number in values:
                found = {door: [] for door in doors}
                for seed, base in enumerate(bases):
                    rest = sparse, number, epochs[1], optimizer
                    for door in doors:
                        if door == "TFMOT":
                            accuracy = by_tfmot(folder, seed, base, *rest)
                        else:
                            accuracy = clustered(door, seed, base, data, *rest)
                        found[door].append(accuracy)
                        advance()
                results.append(
                    {"sparse": sparse, "values": number, "base": before, "accuracies": found}
                )
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    show(results, of)
    if json:
        write_json(json, {"data_set": data_set, "accuracy_on": of, "results": results})


def measured(weights, data):
    """Return the accuracy of an MLP with these weights."""
    import keras

    model = build(keras)
    model.set_weights(weights)
    return float(model.evaluate(*data[1], verbose=0)[1])


if __name__ == "__main__":
    if _CHILD in os.environ:
        child(Path(os.environ[_CHILD]))
    else:
        typer.run(main)
