"""Weight clustering of an MLP, by kprune's two doors and by TFMOT: accuracy with few values.

    python scripts/reproduce_clustering.py --data-dir folder --json out.json
    python scripts/reproduce_clustering.py --seeds 1 --values 2

Each seed trains an MLP on the first training images, dense and with 80% of each kernel zero. From
these weights on, each arm trains the same number of epochs with a few values in each kernel:
`kprune.WeightClustering`, `kprune.cluster_weights`, and TFMOT's `cluster_weights`, on tf_keras,
each in a process of its own (`pip install 'kprune[tfmot]'`). Sparse, the values are those besides
zero, and TFMOT's way is `preserve_sparsity` with one cluster more. The accuracies are those on all
test images after the last epoch; `--validate` takes the last 10,000 training images instead.
"""

import os
import pickle
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
DOORS = ("WeightClustering", "cluster_weights", "TFMOT")
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

        cluster = tfmot.clustering.keras.cluster_weights
        strip = tfmot.clustering.keras.strip_clustering
    else:
        import keras

        import kprune

        cluster, strip = kprune.cluster_weights, kprune.strip_clustering
    keras.utils.set_random_seed(seed)
    model = build(keras, optimizer)
    model.set_weights(weights)
    if door == "WeightClustering":
        callbacks = [kprune.WeightClustering(values)]
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


def arms(doors, bases, data, values, epochs, optimizer, on_run):
    """Return `{(door, sparse, number of values): accuracies, one for each seed}`."""
    return {
        (door, sparse, number): [
            on_run(clustered(door, seed, base, data, sparse, number, epochs, optimizer))
            for seed, base in enumerate(bases[sparse])
        ]
        for door in doors
        for sparse in (False, True)
        for number in values
    }


def by_tfmot(folder, arguments):
    """Return what `arms` does of TFMOT, from a process with tf_keras."""
    (folder / "arguments.pickle").write_bytes(pickle.dumps(arguments))
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", _CHILD: str(folder)}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return pickle.loads((folder / "accuracies.pickle").read_bytes())


def child(folder):
    """Run TFMOT's arms with the arguments that the parent wrote to its own folder."""
    arguments = pickle.loads((folder / "arguments.pickle").read_bytes())
    found = arms(["TFMOT"], *arguments, on_run=lambda accuracy: accuracy)
    (folder / "accuracies.pickle").write_bytes(pickle.dumps(found))


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
    values = values or [2, 4, 16]
    bases = {
        sparse: [base_weights(seed, data, sparse, epochs[0]) for seed in range(seeds)]
        for sparse in (False, True)
    }
    arguments = bases, data, values, epochs[1], optimizer
    with progress("Clustering", 2 * 2 * seeds * len(values)) as advance:
        found = arms(DOORS[:2], *arguments, on_run=lambda accuracy: (advance(), accuracy)[1])
    if tfmot:
        with tempfile.TemporaryDirectory() as folder:
            found |= by_tfmot(Path(folder), arguments)
    results = [
        {
            "sparse": sparse,
            "values": number,
            "base": statistics.fmean(measured(base, data) for base in bases[sparse]),
            "accuracies": {
                d: found[d, sparse, number] for d in DOORS if (d, sparse, number) in found
            },
        }
        for sparse in (False, True)
        for number in values
    ]
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
