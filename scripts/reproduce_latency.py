"""Half of the latency, by a budget in latency and by one in FLOPs: which loses less?

    python scripts/reproduce_latency.py --model resnet --data-dir data --json out.json
    python scripts/reproduce_latency.py --model transformer --target onnxruntime --seeds 1

A small ResNet (Fashion-MNIST) or a Transformer encoder (product reviews) is trained dense, and cut
to half of its measured latency in two rounds of `kprune.prune_channels` and fine-tuning, the same
for both arms:

- latency: `latency=0.5`, which measures operators and whole files;
- flops: `flops=...`, the share of FLOPs at which the measured latency of the whole file is half,
  found by trying. A user who thinks in FLOPs would have to know it.

Printed are the accuracy on test examples after the last epoch, and the latency of both files
measured beside the dense one's at the end.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _start import start

BATCH, RATE, TUNING_RATE = 128, 2e-3, 1e-3
ROUNDS = 2
TRIES = 7
CLOSE = 0.02


def resnet():
    """A ResNet for images of 28 x 28, of three stages of two blocks."""
    import keras

    layers = keras.layers

    def conv(x, filters, kernel, strides=1):
        x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv(inputs, 32, 3))
    for stage, filters in enumerate((32, 64, 128)):
        for strides in (1 if stage == 0 else 2, 1):
            straight = x if filters == x.shape[-1] else conv(x, filters, 1, strides)
            x = layers.ReLU()(conv(x, filters, 3, strides))
            x = layers.ReLU()(conv(x, filters, 3) + straight)
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="resnet")


def transformer(vocabulary=4000, length=96, width=64):
    """A Transformer encoder of two blocks over ids."""
    import keras

    layers = keras.layers
    inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(vocabulary, width)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.add([x, layers.MultiHeadAttention(8, width // 8)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.add([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(2, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="transformer")


def reviews(data_dir, train_size):
    """Return (x, y) to train and (x, y) to test on; rare characters are unknown ones."""
    with np.load(data_dir / "review_sentiment.npz", allow_pickle=False) as file:
        x, y, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (np.where(a < 4000, a, 1).astype("int32") for a in (x, x_test))
    return (x[:train_size], y[:train_size].astype("int32")), (x_test, y_test.astype("int32"))


def train(model, data, epochs, rate):
    """Train with a learning rate that falls along a cosine to 0."""
    import keras

    steps = epochs * -(-len(data[0]) // BATCH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, BATCH, epochs, verbose=0)


def flops_for(model, times, latency):
    """Return the share of FLOPs that leaves this share of the measured latency, by trying."""
    import kprune

    low, high, found = 0.1, 1.0, None
    for _ in range(TRIES):
        share = (low + high) / 2
        reached = times.share_of(kprune.prune_channels(model, flops=share))
        if found is None or abs(reached - latency) < abs(found[1] - latency):
            found = share, reached
        if abs(reached - latency) < CLOSE * latency:
            break
        low, high = (share, high) if reached < latency else (low, share)
    return found[0]


def run(model, data, test, target, tuning, latency):
    """Return {arm: {"accuracy", "latency", "flops"}} of one dense model."""
    import kprune

    times = kprune.search.LatencyModel(model, target)
    flops = flops_for(model, times, latency)
    found = {}
    for arm, budget in {"latency": latency, "flops": flops}.items():
        small, left = model, 1.0
        for step in range(1, ROUNDS + 1):
            aim = budget ** (step / ROUNDS)
            options = {"latency_model": times} if arm == "latency" else {}
            small = kprune.prune_channels(small, **{arm: aim / left}, **options)
            left = aim
            train(small, data, tuning, TUNING_RATE)
        accuracy = small.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
        share = kprune.flops(small).total / kprune.flops(model).total
        found[arm] = {"accuracy": accuracy, "latency": times.share_of(small), "flops": share}
        print(target, arm, found[arm], flush=True)
    return found


def main(
    model: Annotated[str, typer.Option(help="resnet or transformer.")] = "resnet",
    target: Annotated[list[str] | None, typer.Option(help="Both by default.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Of the .npz files.")] = Path("data"),
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="Of the dense training.")] = 8,
    tuning: Annotated[int, typer.Option(help="Of each round.")] = 3,
    train_size: Annotated[int, typer.Option()] = 20_000,
    latency: Annotated[float, typer.Option()] = 0.5,
    out: Annotated[Path | None, typer.Option("--json")] = None,
):
    """Train, cut both ways, fine-tune, and compare."""
    start()
    import keras

    runs = []
    if model == "resnet":
        data, test = images("fashion_mnist", data_dir, train_size=train_size)
    else:
        data, test = reviews(data_dir, train_size)
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        dense = {"resnet": resnet, "transformer": transformer}[model]()
        train(dense, data, epochs, RATE)
        accuracy = dense.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
        print(f"seed {seed}: dense {accuracy:.4f}", flush=True)
        for name in target or ("litert-x86", "onnxruntime"):
            arms = run(dense, data, test, name, tuning, latency)
            runs.append({"seed": seed, "target": name, "dense": accuracy, **arms})
            if out:
                out.write_text(json.dumps(runs, indent=2))
    for name in dict.fromkeys(one["target"] for one in runs):
        mine = [one for one in runs if one["target"] == name]
        for arm in ("latency", "flops"):
            means = {key: statistics.mean(one[arm][key] for one in mine) for key in mine[0][arm]}
            print(f"{name}, {arm}: mean {means}; each {[one[arm]['accuracy'] for one in mine]}")


if __name__ == "__main__":
    typer.run(main)
