"""Words on a microcontroller: pruned, clustered, in 8 bits, as an array in C.

    python examples/microcontroller.py --data-dir FOLDER  # FOLDER/japanese_vowels.npz

A small convolutional network tells nine speakers apart by 25 frames of 12 coefficients. Its file
runs in TensorFlow Lite Micro, with the weights in lookup tables, and in another form on an Arm
Ethos-U, as Vela estimates it.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers

import kprune


def build():
    """Return the network: depthwise-separable, as for keyword spotting."""
    inputs = keras.Input((25, 12, 1))
    x = layers.Conv2D(32, (10, 4), strides=(2, 2), padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for _ in range(3):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv2D(64, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(9, activation="softmax")(x))


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of japanese_vowels.npz.")],
    epochs: Annotated[int, typer.Option(min=1, help="Of each of three trainings.")] = 40,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("."),
):
    """Train the network, prune and cluster it, and export it for both."""
    keras.utils.set_random_seed(0)
    with np.load(data_dir / "japanese_vowels.npz", allow_pickle=False) as data:
        x, x_test = (data[name].astype("float32")[..., None] for name in ("x_train", "x_test"))
        y, y_test = data["y_train"].astype("int32"), data["y_test"].astype("int32")

    def train(model, *callbacks):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
        return model.evaluate(x_test, y_test, verbose=0)[1]

    model = build()
    dense = train(model)
    # Depthwise kernels are few weights, each of which counts.
    pruned = train(model, kprune.Pruning(0.7, layers={"depthwise*": None}))
    model = kprune.strip_pruning(model)
    clustered = train(model, kprune.HoldZeros(), kprune.WeightClustering(16))
    model = kprune.strip_pruning(model)
    print(f"test accuracy {dense:.4f}, pruned {pruned:.4f}, clustered {clustered:.4f}")

    int8 = {"quantize": "int8", "representative_data": x, "io": "int8", "c_array": True}
    print(kprune.export_tflite(model, out / "tables.tflite", target="tflm", **int8))
    print(kprune.export_tflite(model, out / "ethos.tflite", target="ethos-u55-128", **int8))


if __name__ == "__main__":
    typer.run(main)
