"""Which weights go, and how many of each layer: criteria, distributions, regrowth, penalties.

    python examples/which_weights.py
    python examples/which_weights.py --data-dir FOLDER --seeds 3  # FOLDER/fashion_mnist.npz

A small network is trained on Fashion-MNIST, and pruned from its weights with each setting for the
same number of epochs. The settings are compared on images that are held out of the training set;
the best one's network is exported, and tested once on the test set.
"""

import statistics
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer

import kprune
from kprune import pruning

EVERYWHERE = kprune.Global()  # All weights ranked together, whatever their layer.
SETTINGS = {
    "Random": {"criterion": kprune.Random()},
    "Magnitude": {},
    "Magnitude, ErdosRenyiKernel": {"allocation": kprune.ErdosRenyiKernel()},
    "Magnitude, LAMP": {"allocation": pruning.LAMP()},
    "Magnitude, Global": {"allocation": EVERYWHERE},
    "Taylor, Global": {"criterion": kprune.Taylor(), "allocation": EVERYWHERE},
    "Fisher, Global": {"criterion": pruning.Fisher(), "allocation": EVERYWHERE},
    "Movement, Global": {"criterion": pruning.Movement(), "allocation": EVERYWHERE},
    "Magnitude, Global, RigL": {"allocation": EVERYWHERE, "regrowth": pruning.RigL()},
    "Magnitude, Global, GrowingRegularization": {
        "allocation": EVERYWHERE,
        "penalty": pruning.GrowingRegularization(10.0),
    },
}


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
    sparsity: Annotated[float, typer.Option(help="Of all weights.")] = 0.98,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    train_size: Annotated[int, typer.Option(min=1, help="How many images.")] = 55_000,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path, typer.Option(help="The best network's file.")] = Path("best.tflite"),
):
    """Prune with each setting."""
    (x, y), test = load(data_dir)
    held_out = x[-5000:], y[-5000:]
    x, y = x[:-5000][:train_size], y[:-5000][:train_size]
    found, best = {name: [] for name in ("dense", *SETTINGS)}, (0.0, None, None)
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        dense = build()
        fit(dense, x, y, epochs)
        found["dense"].append(accuracy(dense, *held_out))
        for name, setting in SETTINGS.items():
            keras.utils.set_random_seed(seed)
            model = build()
            model.set_weights(dense.get_weights())
            fit(model, x, y, epochs, [kprune.Pruning(sparsity, **setting)])
            model = kprune.strip_pruning(model)
            share = accuracy(model, *held_out)
            found[name].append(share)
            best = max(best, (share, name, model), key=lambda one: one[0])
    for name, shares in found.items():
        print(f"{statistics.fmean(shares):.4f}  {name}")
    _, name, model = best
    print(f"{name} on the test set: {accuracy(model, *test):.4f}")
    print(kprune.export_tflite(model, out))


if __name__ == "__main__":
    typer.run(main)
