"""`kprune.optimize` on real tasks, from the stock architecture to the file, without a manual step.

    python scripts/reproduce_optimize.py mobilenet --target litert-wasm
    python scripts/reproduce_optimize.py mobilenetv2 --target litert-wasm --data-dir data
    python scripts/reproduce_optimize.py speech --target litert-x86 --size 0.15

- mobilenet, mobilenetv2: `keras.applications.MobileNet` (width 0.25) and `MobileNetV2` (0.35) with
  new weights, 96 pixels, trained on Fashion-MNIST, magnified and each image in a random color;
- speech: a bidirectional GRU or LSTM on Japanese vowels (nine speakers).

The search goes by the last of the training examples, held out; the accuracy that is printed at the
end is that of the dense and of the recommended file on test examples that no decision depends on.
Called again with the same `--out`, a search goes on where it was, or only prints what it found.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _start import start

SIDE, MAGNIFIED = 96, 3
BATCH = 64
RATE, TUNING_RATE = 3e-3, 1e-3


def colored(x, seed):
    """Return gray images [n, 28, 28, 1] as RGB [n, 96, 96, 3] in [-1, 1], each of one color."""
    x = x.repeat(MAGNIFIED, 1).repeat(MAGNIFIED, 2)
    border = (SIDE - x.shape[1]) // 2
    x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    tint = np.random.default_rng(seed).uniform(0.4, 1.0, (len(x), 1, 1, 3)).astype("float32")
    return (2 * x * tint - 1).astype("float16")  # A quarter of the memory of float64.


def fashion(data_dir, train_size, held_out):
    """Return (x, y) to train on, to judge by, and to test on."""
    (x, y), (x_test, y_test) = images("fashion_mnist", data_dir)
    x, y = x[: train_size + held_out], y[: train_size + held_out].astype("int32")
    x, x_test = colored(x, 0), colored(x_test[:2000], 1)
    return (x[:train_size], y[:train_size]), (x[train_size:], y[train_size:]), (
        x_test,
        y_test[:2000].astype("int32"),
    )  # fmt: skip


def vowels(data_dir):
    """Return (x, y) to train on, to judge by, and to test on."""
    with np.load(data_dir / "japanese_vowels.npz", allow_pickle=False) as file:
        x, y, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    mean, deviation = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    x, x_test = ((a - mean) / deviation for a in (x, x_test))
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32"), y[order].astype("int32")
    part = len(x) // 5
    return (x[part:], y[part:]), (x[:part], y[:part]), (
        x_test.astype("float32"),
        y_test.astype("int32"),
    )  # fmt: skip


def build(case, shape, cell):
    """Return the network."""
    import keras

    layers = keras.layers
    applications = {
        "mobilenet": (keras.applications.MobileNet, 0.25),
        "mobilenetv2": (keras.applications.MobileNetV2, 0.35),
    }
    if case in applications:
        make, width = applications[case]
        model = make(shape, alpha=width, weights=None, classes=10)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.9  # MobileNetV2's 0.999 is for many more steps than these.
        return model

    recurrent = {"gru": layers.GRU, "lstm": layers.LSTM}[cell]
    stack = [
        keras.Input(shape),
        layers.Bidirectional(recurrent(64, return_sequences=True)),
        layers.Bidirectional(recurrent(64)),
        layers.Dense(9, activation="softmax"),
    ]
    return keras.Sequential(stack)


def train(model, data, epochs, rate, callbacks=()):
    """Train with a learning rate that falls along a cosine to 0."""
    import keras

    steps = epochs * -(-len(data[0]) // BATCH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, BATCH, epochs, verbose=2, callbacks=callbacks)


def main(
    case: Annotated[str, typer.Argument(help="mobilenet, mobilenetv2 or speech.")],
    target: Annotated[str, typer.Option()] = "litert-wasm",
    data_dir: Annotated[Path, typer.Option(help="Of the .npz files.")] = Path("data"),
    out: Annotated[Path, typer.Option()] = Path("optimized"),
    max_drop: Annotated[float | None, typer.Option()] = None,
    latency: Annotated[float | None, typer.Option()] = None,
    size: Annotated[float | None, typer.Option()] = None,
    epochs: Annotated[int, typer.Option(help="Of the dense training.")] = 12,
    tuning: Annotated[int, typer.Option(help="Epochs of a round.")] = 3,
    rounds: Annotated[int, typer.Option()] = 10,
    train_size: Annotated[int, typer.Option()] = 20_000,
    cell: Annotated[str, typer.Option(help="Of speech: gru or lstm.")] = "gru",
    seed: Annotated[int, typer.Option()] = 0,
):
    """Train a network dense, and search for its best file."""
    start()
    import keras

    import kprune
    from kprune.runtimes.litert import LiteRT
    from kprune.runtimes.onnxruntime import OnnxRuntime

    keras.utils.set_random_seed(seed)
    held_out = min(2000, train_size // 4)
    learnt, judged, test = (
        vowels(data_dir) if case == "speech" else fashion(data_dir, train_size, held_out)
    )
    dense = out / "trained.keras"
    out.mkdir(parents=True, exist_ok=True)
    if dense.is_file():
        model = keras.models.load_model(dense)
    else:
        model = build(case, learnt[0].shape[1:], cell)
        train(model, learnt, epochs, RATE)
        model.save(dense)

    def fit(model, callbacks):
        train(model, learnt, tuning, TUNING_RATE, callbacks)

    def evaluate(model):
        return model.evaluate(*judged, verbose=0, return_dict=True)["accuracy"]

    result = kprune.optimize(
        model, target, fit, evaluate, max_drop, latency=latency, size=size, data=learnt[0][:400],
        out=out / target, rounds=rounds, seed=seed,
    )  # fmt: skip
    print(result)
    for label, point in {"dense": result.points[0], "recommended": result.best}.items():
        runtime = (OnnxRuntime if point.path.endswith(".onnx") else LiteRT)(point.path)
        (name,) = runtime.inputs
        right = [
            next(iter(runtime({name: x[None].astype("float32")}).values())).argmax() == y
            for x, y in zip(*test)
        ]
        print(f"{label}: {np.mean(right):.4f} on {len(right)} test examples")


if __name__ == "__main__":
    typer.run(main)
