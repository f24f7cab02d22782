"""One call that searches for the fastest file of a CNN that still does the job.

    python examples/optimize.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

The search goes by images held out from training; the test images judge the file that it recommends.
Stop it at any time: called again, it goes on where it was.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers

import kprune

HELD_OUT = 0.1


def build():
    """Return a small CNN with batch normalizations."""
    body = []
    for filters in (32, 64, 128):
        body += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        body += [layers.BatchNormalization(momentum=0.9), layers.ReLU(), layers.MaxPooling2D()]
    body += [layers.Flatten(), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *body])


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of fashion_mnist.npz.")],
    target: Annotated[str, typer.Option(help="Where it will run.")] = "onnxruntime",
    max_drop: Annotated[float, typer.Option(min=0)] = 0.01,
    epochs: Annotated[int, typer.Option(min=1, help="Of the dense training.")] = 5,
    tuning: Annotated[int, typer.Option(min=1, help="Epochs of each round.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 8,
    size: Annotated[int | None, typer.Option(help="How many images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("optimized"),
):
    """Train the network, search for its best file, and test that."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (data[name][..., None].astype("float32") / 255 for name in ("x_train", "x_test"))
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))
    held_out = int(len(x) * HELD_OUT)
    x, x_val, y, y_val = x[held_out:], x[:held_out], y[held_out:], y[:held_out]
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)

    def fit(model, callbacks):
        model.fit(x, y, batch_size=128, epochs=tuning, verbose=0, callbacks=callbacks)

    def evaluate(model):  # Runs the file, in its runtime.
        return model.evaluate(x_val, y_val, verbose=0, return_dict=True)["accuracy"]

    result = kprune.optimize(
        model, target, fit, evaluate, max_drop, data=x[:400], rounds=rounds, out=out
    )
    print(result)
    best = keras.models.load_model(result.best.model)
    best.compile(metrics=["accuracy"])
    right = best.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    print(f"test accuracy of the model that {result.best.path} was made from: {right:.4f}")


if __name__ == "__main__":
    typer.run(main)
