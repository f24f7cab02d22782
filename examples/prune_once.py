"""A trained network, pruned at once from 512 images without labels, and exported.

    python examples/prune_once.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

Nothing is trained after pruning. `sensitivity_scan` says first what each layer bears alone.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers

import kprune


def build():
    """Return a small CNN with batch normalizations."""
    body = []
    for filters in (16, 32, 64):
        body += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        body += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    body += [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *body])


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of fashion_mnist.npz.")],
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[int | None, typer.Option(help="How many images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("."),
):
    """Train the network, prune it at once, and export it."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (data[name][..., None].astype("float32") / 255 for name in ("x_train", "x_test"))
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    dense = model.evaluate(x_test, y_test, verbose=0)[1]

    print(kprune.sensitivity_scan(model, (x[-1000:], y[-1000:]), sparsities=[0.5, 0.7, 0.9]))
    model, report = kprune.prune_once(model, 0.5, x[:512])
    print(report)
    pruned = model.evaluate(x_test, y_test, verbose=0)[1]
    print(f"accuracy {dense:.4f} dense, {pruned:.4f} with half of the weights, not trained again")
    print(kprune.export_tflite(model, out / "pruned.tflite", inputs=x_test[:2]))


if __name__ == "__main__":
    typer.run(main)
