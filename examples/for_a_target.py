"""Zeros where a target is faster with them, and nowhere else.

    python examples/for_a_target.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

A small MobileNet is prepared for XNNPACK's sparse path, pruned for it, and exported; the report
says what to expect of the zeros. Images have three channels, as that path begins at no others.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers

import kprune


def block(x, filters, strides):
    """Return a depthwise convolution and one of 1x1 on `x`."""
    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(filters, 1, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def build():
    """Return the network."""
    inputs = keras.Input((28, 28, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2)):
        x = block(x, filters, strides)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of fashion_mnist.npz.")],
    target: Annotated[str, typer.Option(help="Where it will run.")] = "litert-arm64",
    sparsity: Annotated[float, typer.Option(help="Of the layers that are faster.")] = 0.85,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 8,
    size: Annotated[int | None, typer.Option(help="How many images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the file goes.")] = Path("."),
):
    """Train the network, prune it for the target, export and check it."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (
        np.repeat(data[name][..., None], 3, axis=-1).astype("float32") / 255
        for name in ("x_train", "x_test")
    )
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))

    def train(model, callbacks=()):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        options = {"batch_size": 128, "epochs": epochs, "verbose": 0}
        model.fit(x, y, callbacks=list(callbacks), **options)
        return model.evaluate(x_test, y_test, verbose=0)[1]

    model, changes = kprune.prepare(build(), target)
    print(changes)
    dense = train(model)
    pruned = train(model, [kprune.Pruning(sparsity, target=target)])
    model = kprune.strip_pruning(model)
    print(f"test accuracy {dense:.4f} dense, {pruned:.4f} pruned")
    path = out / "pruned.tflite"
    print(kprune.export_tflite(model, path, target=target, inputs=x_test[:64]))
    print(kprune.check(path, target))


if __name__ == "__main__":
    typer.run(main)
