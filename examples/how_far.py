"""How many weights can go before the accuracy does? One `fit` finds out.

    python examples/how_far.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

A trained network is pruned further and further while its accuracy on held-out images is within
`--max-drop` of the best so far, and taken back where it is not.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers

import kprune


def build():
    """Return a small CNN."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of fashion_mnist.npz.")],
    max_drop: Annotated[float, typer.Option(help="Of the accuracy, that may be lost.")] = 0.01,
    epochs: Annotated[int, typer.Option(min=4, help="Of pruning, after 5 dense ones.")] = 20,
    size: Annotated[int | None, typer.Option(help="How many images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the file goes.")] = Path("."),
):
    """Train the network, prune it as far as it goes, and export it."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (data[name][..., None].astype("float32") / 255 for name in ("x_train", "x_test"))
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))
    held_out = len(x) // 6
    x, y, x_val, y_val = x[held_out:], y[held_out:], x[:held_out], y[:held_out]

    model = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=5, verbose=0)
    dense = model.evaluate(x_test, y_test, verbose=0)[1]

    schedule = kprune.Adaptive(monitor="val_accuracy", max_drop=max_drop)
    pruning = kprune.Pruning(schedule=schedule, allocation=kprune.Global())
    options = {"batch_size": 128, "epochs": epochs, "verbose": 0}
    model.fit(x, y, validation_data=(x_val, y_val), callbacks=[pruning], **options)
    for one in schedule.tried:
        print(one)

    model = kprune.strip_pruning(model)
    pruned = model.evaluate(x_test, y_test, verbose=0)[1]
    zeros = kprune.sparsity(model).sparsity
    print(f"test accuracy {dense:.4f} dense, {pruned:.4f} with {zeros:.1%} zeros")
    print(kprune.export_tflite(model, out / "pruned.tflite", inputs=x_test[:64]))


if __name__ == "__main__":
    typer.run(main)
