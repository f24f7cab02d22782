"""A CNN cut to half of the latency of its file, measured in its runtime, and fine-tuned.

    python examples/half_latency.py --data-dir FOLDER  # FOLDER/fashion_mnist.npz

Beside it, what half of the FLOPs would have given: a runtime's time does not follow them.
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
    for filters in (64, 128):
        for _ in range(2):
            body += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
            body += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
        body += [layers.MaxPooling2D()]
    body += [layers.Flatten(), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *body])


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of fashion_mnist.npz.")],
    target: Annotated[str, typer.Option(help="Where it will run.")] = "onnxruntime",
    latency: Annotated[float, typer.Option(help="The share that stays.")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 3,
    size: Annotated[int | None, typer.Option(help="How many images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("."),
):
    """Train the network, cut it, fine-tune it, and time both files."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (data[name][..., None].astype("float32") / 255 for name in ("x_train", "x_test"))
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))

    def train(model):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
        return model.evaluate(x_test, y_test, verbose=0)[1]

    model = build()
    print(f"dense: test accuracy {train(model):.4f}")
    times = kprune.search.LatencyModel(model, target)
    by_flops = kprune.prune_channels(model, flops=latency)
    print(f"by FLOPs: {times.share_of(by_flops):.3f} of the latency")
    small = kprune.prune_channels(model, latency=latency, latency_model=times)
    print(times)
    print(f"by latency: {times.share_of(small):.3f}, test accuracy {train(small):.4f}")

    suffix = "onnx" if target == "onnxruntime" else "tflite"
    export = kprune.export_onnx if suffix == "onnx" else kprune.export_tflite
    files = [out / f"{name}.{suffix}" for name in ("dense", "small")]
    for one, path in zip((model, small), files):
        export(one, path, inputs=x_test[:64])
    print(kprune.benchmark(files))


if __name__ == "__main__":
    typer.run(main)
