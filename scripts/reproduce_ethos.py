"""What zeros and fewer channels are worth on an Arm Ethos-U, by Vela's estimates.

    python scripts/reproduce_ethos.py ds-cnn --data-dir data
    python scripts/reproduce_ethos.py autoencoder --data-dir data --clusters 16
    python scripts/reproduce_ethos.py mobilenet --data-dir data --channels 0.6 --sparsity 0.8

Three networks of the sizes that are used on such devices, trained here on Fashion-MNIST, dense and
pruned, and exported in int8, which LiteRT verifies and Vela compiles:

- ds-cnn: the depthwise-separable CNN of keyword spotting, 64 channels, four blocks, 12 classes, on
  images resampled to the 49 x 10 of its spectrograms;
- autoencoder: the MLP of anomaly detection, 640-128x4-8-128x4-640, on images cropped to 32 x 20;
- mobilenet: `keras.applications.MobileNet` (width 0.25) at 96 pixels, on magnified images, each in
  a random color; first channels are removed, then what is left is pruned.

Accuracy, or the mean squared error of the autoencoder, is that of the int8 file in LiteRT on test
images that no decision depends on. Time, flash and weight bytes are Vela's estimates: nothing was
measured on a device.
"""

import enum
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _litert import accuracy
from _start import start
from reproduce_optimize import colored

CLASSES = 12
RATE, TUNING_RATE = 3e-3, 1e-3
BATCH = 64


class Case(enum.StrEnum):
    """The networks."""

    DS_CNN = "ds-cnn"
    AUTOENCODER = "autoencoder"
    MOBILENET = "mobilenet"


def spectrogram_sized(x):
    """Return images [n, 28, 28, 1] resampled to [n, 49, 10, 1]."""
    rows, columns = (np.linspace(0, 27, n).round().astype(int) for n in (49, 10))
    return x[:, rows][:, :, columns]


def cropped(x):
    """Return images [n, 28, 28, 1] as vectors of 32 x 20 numbers."""
    return np.pad(x[:, :, 4:24, 0], ((0, 0), (2, 2), (0, 0))).reshape(len(x), -1)


def ds_cnn():
    """Return the CNN of keyword spotting."""
    import keras
    from keras import layers

    def followed(x, layer):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))

    inputs = keras.Input((49, 10, 1))
    stem = layers.Conv2D(64, (10, 4), 2, padding="same", use_bias=False, name="stem")
    x = followed(inputs, stem)
    for i in range(4):
        one = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise_{i}")
        x = followed(x, one)
        x = followed(x, layers.Conv2D(64, 1, use_bias=False, name=f"pointwise_{i}"))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(CLASSES, activation="softmax", name="head")(x)
    return keras.Model(inputs, x, name="ds_cnn")


def autoencoder():
    """Return the MLP of anomaly detection."""
    import keras
    from keras import layers

    widths = [128, 128, 128, 128, 8, 128, 128, 128, 128]
    stack = [layers.Dense(n, "relu", name=f"dense_{i}") for i, n in enumerate(widths)]
    return keras.Sequential(
        [keras.Input((640,)), *stack, layers.Dense(640, name="out")], name="autoencoder"
    )


def mobilenet():
    """Return MobileNet, a quarter as wide, for 96 pixels."""
    import keras

    model = keras.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None, classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return model


CASES = {
    Case.DS_CNN: (ds_cnn, spectrogram_sized),
    Case.AUTOENCODER: (autoencoder, cropped),
    Case.MOBILENET: (mobilenet, None),
}


def data(case, data_dir, train_size, test_size):
    """Return (x, y) to train on, and to test on; y is x for the autoencoder."""
    (x, y), (x_test, y_test) = images("fashion_mnist", data_dir, train_size=train_size)
    x_test, y_test = x_test[:test_size], y_test[:test_size]
    if case == Case.MOBILENET:
        x, x_test = (colored(part, i).astype("float32") for i, part in enumerate((x, x_test)))
    else:
        x, x_test = (CASES[case][1](part) for part in (x, x_test))
    if case == Case.AUTOENCODER:
        return (x, x), (x_test, x_test)
    return (x, y.astype("int32")), (x_test, y_test.astype("int32"))


def train(model, learnt, epochs, rate, callbacks=()):
    """Train with a learning rate that falls along a cosine to 0."""
    import keras

    steps = epochs * -(-len(learnt[0]) // BATCH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    loss = "mse" if learnt[1] is learnt[0] else "sparse_categorical_crossentropy"
    model.compile(adam, loss)
    model.fit(*learnt, BATCH, epochs, verbose=2, callbacks=list(callbacks))


def metric(path, test):
    """Return the accuracy of a file in LiteRT, or its mean squared error."""
    if test[1] is not test[0]:
        return accuracy(path.read_bytes(), *test)
    from kprune.runtimes.litert import LiteRT

    file = LiteRT(path)
    (name,) = file.inputs
    outputs = [next(iter(file({name: x[None]}).values()))[0] for x in test[0]]
    return float(np.mean((np.stack(outputs) - test[0]) ** 2))


def main(
    case: Annotated[Case, typer.Argument()],
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Of fashion_mnist.npz.")
    ] = None,
    target: Annotated[str, typer.Option()] = "ethos-u55-128",
    sparsity: Annotated[float, typer.Option()] = 0.9,
    channels: Annotated[
        float | None, typer.Option(help="Share of the FLOPs to come down to before.")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Values of a kernel, after pruning; Vela stores few shorter.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of the dense training.")] = 6,
    tuning: Annotated[int, typer.Option(help="Of pruning, and after removing channels.")] = 6,
    train_size: Annotated[int, typer.Option()] = 20_000,
    test_size: Annotated[int, typer.Option()] = 2000,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("ethos"),
    seed: Annotated[int, typer.Option()] = 0,
):
    """Train a network dense and pruned, and compare what Vela makes of both."""
    start()
    import keras

    import kprune

    keras.utils.set_random_seed(seed)
    learnt, test = data(case, data_dir, train_size, test_size)
    out.mkdir(parents=True, exist_ok=True)

    def export(model, name):
        path = out / f"{case}-{name}.tflite"
        report = kprune.export_tflite(
            model, path, quantize="int8", representative_data=learnt[0][:400], target=target
        )
        print(report)
        return path

    model = CASES[case][0]()
    train(model, learnt, epochs, RATE)
    files = [export(model, "dense")]
    if channels is not None:
        model = kprune.prune_channels(model, flops=channels)
        train(model, learnt, tuning, TUNING_RATE)
        files.append(export(model, "narrow"))
    print(kprune.for_target(model, target, sparsity))
    train(model, learnt, tuning, TUNING_RATE, [kprune.Pruning(sparsity, target=target)])
    model = kprune.strip_pruning(model)
    files.append(export(model, "pruned"))
    if clusters is not None:
        train(model, learnt, tuning, TUNING_RATE, [kprune.WeightClustering(clusters)])
        files.append(export(kprune.strip_pruning(model), "clustered"))

    report = kprune.benchmark(files, target=target)
    print(report)
    dense = report.rows[0].estimate
    rows = {}
    for path, row in zip(files, report):
        one = row.estimate
        rows[path.stem] = {
            "mean squared error" if case == Case.AUTOENCODER else "accuracy": metric(path, test),
            "time": one.seconds / dense.seconds,
            "flash": one.flash_bytes / dense.flash_bytes,
            "weight_bytes": one.weight_bytes / dense.weight_bytes,
        }
        print(path.stem, {name: round(value, 4) for name, value in rows[path.stem].items()})
    (out / f"{case}.json").write_text(
        json.dumps({"report": report.to_dict(), "relative to dense": rows}, indent=1)
    )


if __name__ == "__main__":
    typer.run(main)
