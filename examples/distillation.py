"""A dense model teaches the pruned one: `kprune.training.distill`.

    python examples/distillation.py
    python examples/distillation.py --data-dir FOLDER --seeds 3  # FOLDER/fashion_mnist.npz

A small network is trained on Fashion-MNIST. From its weights it is then pruned in the same number
of epochs twice: as it is, and with the dense network as its teacher. What is exported is the
student alone.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer

import kprune


def load(data_dir):
    """Return (images, labels) of Fashion-MNIST to train on, and to test with."""
    if data_dir is None:
        parts = keras.datasets.fashion_mnist.load_data()
    else:
        with np.load(data_dir / "fashion_mnist.npz", allow_pickle=False) as arrays:
            parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
    return [(x[..., None].astype("float32") / 255, y) for x, y in parts]


def build():
    """Return the network; its outputs are logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def fit(model, x, y, epochs, callbacks=()):
    """Train a model, with a learning rate that falls to 0."""
    steps = epochs * -(-len(x) // 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, 64, epochs, verbose=0, callbacks=list(callbacks))


def accuracy(model, x, y):
    """Return the share of images that a model names."""
    return float(np.mean(model.predict(x, 1000, verbose=0).argmax(axis=-1) == y))


def main(
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where fashion_mnist.npz is.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Over all weights together.")] = 0.98,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    train_size: Annotated[int, typer.Option(min=1, help="How many images.")] = 60_000,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
):
    """Prune with a teacher and without."""
    (x, y), test = load(data_dir)
    x, y = x[:train_size], y[:train_size]
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        teacher = build()
        fit(teacher, x, y, epochs)
        found = {"dense": accuracy(teacher, *test)}
        for name in ("pruned", "distilled"):
            keras.utils.set_random_seed(seed)
            student = build()
            student.set_weights(teacher.get_weights())
            model = student
            if name == "distilled":
                model = kprune.training.distill(student, teacher)
            fit(model, x, y, epochs, [kprune.Pruning(sparsity, allocation=kprune.Global())])
            kprune.strip_pruning(model)
            found[name] = accuracy(student, *test)
        print(f"seed {seed}:", ", ".join(f"{name} {share:.4f}" for name, share in found.items()))
    with tempfile.TemporaryDirectory() as folder:
        print(kprune.export_tflite(student, Path(folder) / "student.tflite"))


if __name__ == "__main__":
    typer.run(main)
