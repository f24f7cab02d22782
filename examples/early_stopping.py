"""Early stopping while a model is pruned: with and without `kprune.after_pruning`.

    python examples/early_stopping.py
    python examples/early_stopping.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

`EarlyStopping(restore_best_weights=True)` keeps the epoch with the lowest validation loss. While
a model is pruned, that is often an epoch in which it is still nearly dense. This trains the same
network twice on Fashion-MNIST, from the same initial weights: once with `EarlyStopping` as it is,
and once within `kprune.after_pruning`, which lets it see only the epochs after the schedule's end.
"""

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
    """Return the network, with the same initial weights each time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def main(
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where fashion_mnist.npz is.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    train_size: Annotated[int, typer.Option(min=1, help="How many images.")] = 10_000,
):
    """Train with early stopping, with and without after_pruning."""
    (x, y), test = load(data_dir)
    validation = x[-10_000:], y[-10_000:]
    x, y = x[:train_size], y[:train_size]

    for name in ("EarlyStopping", "after_pruning(EarlyStopping)"):
        stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
        if name.startswith("after_pruning"):
            stop = kprune.after_pruning(stop)
        model = build()
        history = model.fit(
            x,
            y,
            batch_size=128,
            epochs=epochs,
            verbose=0,
            validation_data=validation,
            callbacks=[kprune.Pruning(0.9), stop],  # Warns where it ends below 0.9.
        )
        model = kprune.strip_pruning(model)  # Warns as well.
        zeros = kprune.sparsity(model).sparsity
        _, accuracy = model.evaluate(*test, verbose=0)
        print(
            f"{name}: {len(history.epoch)} of {epochs} epochs, sparsity {zeros:.4f}, "
            f"test accuracy {accuracy:.4f}"
        )


if __name__ == "__main__":
    typer.run(main)
