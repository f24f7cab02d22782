"""A ResNet on Fashion-MNIST, pruned by kprune and by TFMOT with the same work.

    python scripts/reproduce_tfmot.py --json out.json
    python scripts/reproduce_tfmot.py --seeds 1 --sparsities 0.95 --validate --json out.json

ResNet-20 (He et al., 2016: 0.27 million weights) is trained dense once a seed. From these weights
it is pruned as long again by each: by TFMOT's wrapper layers on tf_keras, which give every layer
the sparsity; by `kprune.Pruning` with the same sparsity in every layer (`uniform`); and over all
layers together (`global`, `kprune.Global`). Network, first weights, data, optimizer, learning
rates, schedule of the sparsity, batches of each seed and number of steps are the same. Sparsity
is that of the kernels. The error is that on the 10,000 test images after the last epoch, which
no decision depends on: the recipe below was the first that was tried, with `--validate`, which
holds out 5,000 of the training images.

The recipe: Adam, a learning rate that falls along a cosine to 0; sparsity rises along a cubic
from 10% to 50% of the steps, every 20 steps; the first convolution has a stride of 2, for the sake
of processors: TFMOT and `global` alone took two of their cores 75 minutes.

Every training is a process of its own; what is in the JSON already is not trained again.

The data are those of `keras.datasets.fashion_mnist`, or of fashion_mnist.npz in `--data-dir`
(KPRUNE_DATA_DIR).
"""

import json as json_module
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _progress import progress
from _start import start

VALIDATION = 5_000
ARMS = DENSE, TFMOT, UNIFORM, GLOBAL = "dense", "TFMOT", "uniform", "global"
BATCH_SIZE, FREQUENCY = 128, 20
RATES = {True: 3e-3, False: 1e-3}  # Of the dense training, and of the pruning.


# --- In the trainings' processes ----------------------------------------------------------------


def resnet(keras, widths=(16, 32, 64), blocks=3):
    """ResNet-20 of either Keras; its outputs are logits, its layers have names of their own."""
    layers = keras.layers
    count = iter(range(1000))

    def conv(x, width, size, stride=1):
        name = f"conv_{next(count)}"
        options = {"strides": stride, "padding": "same", "use_bias": False, "name": name}
        x = layers.Conv2D(width, size, **options)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    inputs = layers.Input((28, 28, 1))
    x = layers.Activation("relu")(conv(inputs, widths[0], 3, stride=2))
    for i, width in enumerate(widths):
        for j in range(blocks):
            stride = 2 if i and not j else 1
            y = layers.Activation("relu")(conv(x, width, 3, stride))
            y = conv(y, width, 3)
            x = x if stride == 1 else conv(x, width, 1, stride)
            x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


def train(arm, sparsity, seed, epochs, data, dense, threads):
    """Train one network; return its figures as plain data.

    Args:
        arm: one of the names above.
        sparsity: float, of the kernels; None for dense.
        seed: int, of the first weights and of the order of the images.
        epochs: int.
        data: what `images` takes.
        dense: path of the dense network's weights, written by `arm` DENSE and read by the others.
        threads: how many TensorFlow may use.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # What the libraries print.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if arm == TFMOT:
        import tf_keras as keras
    else:
        import keras
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    (x, y), (x_test, y_test) = images(*data)
    steps = epochs * -(-len(x) // BATCH_SIZE)
    model = resnet(keras)
    if arm != DENSE:
        with np.load(dense) as weights:
            for layer in filter(lambda layer: layer.weights, model.layers):
                own = range(len(layer.weights))
                layer.set_weights([weights[f"{layer.name}/{i}"] for i in own])
    network, callbacks = _pruned(model, arm, sparsity, steps)
    network.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(RATES[arm == DENSE], steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    network.fit(batches.batch(BATCH_SIZE), epochs=epochs, verbose=0, callbacks=callbacks)
    predicted = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=-1)
    if arm == DENSE:
        arrays = {
            f"{layer.name}/{i}": value
            for layer in model.layers
            for i, value in enumerate(layer.get_weights())
        }
        np.savez(dense, **arrays)
    kernels = [layer.get_weights()[0] for layer in model.layers if hasattr(layer, "kernel")]
    return {
        "arm": arm,
        "sparsity": sparsity,
        "seed": seed,
        "error": float(np.mean(predicted != y_test)),
        "zeros": 1 - sum(map(np.count_nonzero, kernels)) / sum(k.size for k in kernels),
        "weights": model.count_params(),
        "seconds": time.perf_counter() - begin,
    }


def _pruned(model, arm, sparsity, steps):
    """Return what is trained, and the callbacks that prune it."""
    if arm == DENSE:
        return model, []
    # TFMOT reaches the sparsity only where the last step is one of its updates.
    begin, updates = steps // 10, round(0.4 * steps / FREQUENCY)
    end = begin + updates * FREQUENCY
    when = {"begin_step": begin, "end_step": end, "frequency": FREQUENCY}
    if arm == TFMOT:
        from tensorflow_model_optimization.sparsity import keras as tfmot

        schedule = tfmot.PolynomialDecay(0.0, sparsity, **when)
        network = tfmot.prune_low_magnitude(model, pruning_schedule=schedule)
        return network, [tfmot.UpdatePruningStep()]
    import kprune

    schedule = kprune.PolynomialDecay(0.0, sparsity, **when)
    allocation = kprune.Global() if arm == GLOBAL else kprune.Uniform()
    return model, [kprune.Pruning(schedule=schedule, allocation=allocation)]


# --- In the parent's process --------------------------------------------------------------------


def jobs(seeds, sparsities, arms):
    """All trainings, dense ones first: tuples `(arm, sparsity, seed)`."""
    dense = [(DENSE, None, seed) for seed in range(seeds)]
    pruned = [(arm, sparsity) for sparsity in sparsities for arm in arms]
    return dense, [(*one, seed) for seed in range(seeds) for one in pruned]


def show(console, runs, of):
    """Print the errors by sparsity and arm, with their mean over seeds."""
    from kprune.report import tables

    rows, groups = [], {}
    for run in sorted(runs, key=lambda run: (run["sparsity"] or 0, ARMS.index(run["arm"]))):
        groups.setdefault((run["arm"], run["sparsity"]), []).append(run)
    for (arm, sparsity), own in groups.items():
        errors = [run["error"] for run in sorted(own, key=lambda run: run["seed"])]
        rows.append(
            (
                "" if sparsity is None else tables.percent(sparsity),
                arm,
                tables.percent(own[0]["zeros"]),
                tables.percent(statistics.fmean(errors)),
                ", ".join(map(tables.percent, errors)),
            )
        )
    columns = ["sparsity", "by", ">zeros", ">error", ">of each seed"]
    console.print(tables.table(columns, rows, title=f"ResNet-20: error on {of}"))


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    sparsities: Annotated[str, typer.Option(help="Separated by commas.")] = "0.9,0.95,0.98",
    arms: Annotated[str, typer.Option(help="Separated by commas.")] = "TFMOT,uniform,global",
    epochs: Annotated[int, typer.Option(min=1, help="Of each of the two trainings.")] = 6,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where fashion_mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where runs are kept, and taken up.")] = None,
):
    """Prune a ResNet by kprune and by TFMOT, and compare the errors."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    with plain_errors():
        if not find_spec("tensorflow_model_optimization") or not find_spec("tf_keras"):
            raise ImportError('TFMOT is not installed: pip install "kprune[tfmot]"')
        levels = [float(level) for level in sparsities.split(",")]
        own = arms.split(",")
        if not set(own) <= set(ARMS[1:]):
            raise ValueError(f"--arms are of {', '.join(ARMS[1:])}. Received: {arms}")
        data = ("fashion_mnist", data_dir, validate, train_size, VALIDATION)
        _, (held_out, _) = images(*data)
        of = f"{len(held_out):,} {'validation' if validate else 'test'} images"
        asked = {"error_on": of, "epochs": epochs, "train_size": train_size}
        kept = asked | {"runs": []}
        if json and json.exists():
            kept = json_module.loads(json.read_text())
            if kept | asked != kept:
                raise ValueError(f"{json} is of other trainings: name another file")
    runs = kept["runs"]
    done = {(run["arm"], run["sparsity"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(f"{json}.weights") if json else Path(folder)
        work.mkdir(exist_ok=True)
        pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        )
        threads = max(1, os.cpu_count() // processes)
        phases = [[job for job in phase if job not in done] for phase in jobs(seeds, levels, own)]
        with pool, progress("Training", sum(map(len, phases))) as advance:
            for phase in phases:
                futures = [
                    pool.submit(train, *job, epochs, data, work / f"{job[2]}.npz", threads)
                    for job in phase
                ]
                for future in as_completed(futures):
                    runs.append(future.result())
                    advance()
                    if json:
                        write_json(json, kept)
    show(Console(), runs, of)


if __name__ == "__main__":
    typer.run(main)
