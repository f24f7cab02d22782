"""How well latency is predicted by operators: cuts of ten models, predicted and measured whole.

    python scripts/benchmark_latency.py --json latency.json

Each model is cut to randomly selected numbers of channels, untrained. The `LatencyModel` of the
dense model predicts the latency of the cut from the times of its operators; then the cut is
exported, and its file is timed beside the dense one. Nothing of the whole file is used to predict.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from _start import start


def resnet20():
    """ResNet-20 for images of 32 x 32."""
    from keras import Input, Model, layers

    def conv(x, filters, strides=1, size=3):
        options = {"strides": strides, "padding": "same", "use_bias": False}
        return layers.BatchNormalization()(layers.Conv2D(filters, size, **options)(x))

    inputs = Input((32, 32, 3))
    x = layers.ReLU()(conv(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            y = conv(layers.ReLU()(conv(x, filters, strides)), filters)
            x = layers.ReLU()(layers.add([conv(x, filters, strides, 1) if strides > 1 else x, y]))
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def mobilenet():
    """MobileNet 0.25."""
    import keras

    return keras.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None, classes=10)


def mobilenet_v2():
    """MobileNetV2 0.35."""
    import keras

    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)


def vgg():
    """Convolutions, poolings, dense layers."""
    from keras import Sequential, layers

    found = [layers.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        for _ in range(2):
            found.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        found.append(layers.MaxPooling2D())
    return Sequential([*found, layers.Flatten(), layers.Dense(256, "relu"), layers.Dense(10)])


def mlp():
    """Dense layers only."""
    from keras import Sequential, layers

    hidden = [layers.Dense(units, activation="relu") for units in (1024, 1024, 512)]
    return Sequential([layers.Input((784,)), *hidden, layers.Dense(10)])


def densenet():
    """Dense blocks: each layer sees all before it."""
    from keras import Input, Model, layers

    def made(x, filters, size):
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.Conv2D(filters, size, padding="same", use_bias=False)(x)

    inputs = Input((32, 32, 3))
    x = layers.Conv2D(32, 3, padding="same")(inputs)
    for stage in range(3):
        for _ in range(4):
            x = layers.Concatenate()([x, made(made(x, 64, 1), 16, 3)])
        if stage < 2:
            x = layers.AveragePooling2D(2)(made(x, x.shape[-1] // 2, 1))
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer():
    """An encoder with MultiHeadAttention."""
    from keras import Input, Model, layers

    inputs = Input((64,), dtype="int32")
    x = layers.Embedding(1000, 128)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.add([x, layers.MultiHeadAttention(4, 32)(y, y)])
        y = layers.Dense(512, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.add([x, layers.Dense(128)(y)])
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def efficientnet():
    """Inverted residuals with squeeze-and-excite and SiLU."""
    from keras import Input, Model, layers

    def norm(x, activation="silu"):
        x = layers.BatchNormalization()(x)
        return layers.Activation(activation)(x) if activation else x

    inputs = Input((64, 64, 3))
    x = norm(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs))
    for filters, strides in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        wide = 4 * x.shape[-1]
        y = norm(layers.Conv2D(wide, 1, use_bias=False)(x))
        y = norm(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(wide // 4, 1, activation="silu")(gate)
        y = layers.multiply([y, layers.Conv2D(wide, 1, activation="sigmoid")(gate)])
        y = norm(layers.Conv2D(filters, 1, use_bias=False)(y), None)
        x = layers.add([x, y]) if x.shape[-1] == filters and strides == 1 else y
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def conv1d():
    """Convolutions over time."""
    from keras import Sequential, layers

    found = [layers.Input((256, 16))]
    for filters in (64, 128, 128):
        found.append(layers.Conv1D(filters, 5, padding="same", use_bias=False))
        found += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling1D(2)]
    return Sequential([*found, layers.GlobalAveragePooling1D(), layers.Dense(10)])


def lstm():
    """Two recurrent layers."""
    from keras import Sequential, layers

    recurrent = [layers.LSTM(128, return_sequences=True), layers.LSTM(96)]
    return Sequential([layers.Input((40, 32)), *recurrent, layers.Dense(10)])


MODELS = (
    resnet20, mobilenet, mobilenet_v2, vgg, mlp, densenet, transformer, efficientnet, conv1d, lstm,
)  # fmt: skip
TARGETS = ("litert-x86", "onnxruntime")


def random_cut(model, rng):
    """Return a model with a randomly selected share of each group's channels, of any number."""
    import numpy as np

    from kprune.structured.graph import ChannelGraph
    from kprune.structured.groups import find_groups, keep_groups
    from kprune.structured.surgery import cut

    graph = ChannelGraph(model)
    groups, gone = find_groups(graph), [np.zeros(0, int)]
    keep_groups(groups, heads=True, hidden=False)
    for group in groups:
        if not group.frozen:
            kept = rng.integers(max(1, group.channels // 4), group.channels)
            gone.append(group.roots[kept:])
    return cut(graph, np.concatenate(gone))


def measured(make, target, cuts, seed):
    """Return what was predicted and measured of cuts of one model, each a share of the dense."""
    import numpy as np

    import kprune

    model, rng, found = make(), np.random.default_rng(seed), []
    latency = kprune.search.LatencyModel(model, target)
    for _ in range(cuts):
        small = random_cut(model, rng)
        predicted = latency.predict(small) / latency.seconds
        whole = latency.share_of(small)
        found.append(
            {
                "model": make.__name__,
                "target": target,
                "flops": kprune.flops(small).total / kprune.flops(model).total,
                "predicted": float(predicted),
                "measured": whole,
                "error": float(abs(predicted / whole - 1)),
                "notes": latency.notes,
            }
        )
    return found


def summary(rows):
    """Return rows and their median errors, of all and of each target."""
    found = {"rows": rows, "median_error": statistics.median(row["error"] for row in rows)}
    for target in {row["target"] for row in rows}:
        errors = [row["error"] for row in rows if row["target"] == target]
        found[target] = statistics.median(errors)
    return found


def write_json(found, path):
    """Write plain data, whole or not at all."""
    temporary = path.with_name("." + path.name + ".tmp")
    temporary.write_text(json.dumps(found, indent=2) + "\n")
    os.replace(temporary, path)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[m.__name__ for m in MODELS], default=None)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--cuts", type=int, default=3, help="of each model")
    parser.add_argument("--seed", type=int, default=0, help="of the numbers of channels")
    parser.add_argument("--json", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    start()
    from _progress import progress

    from kprune.report import tables

    chosen = [m for m in MODELS if options.models is None or m.__name__ in options.models]
    rows = []
    with progress("Cutting and timing", len(chosen) * len(options.targets)) as advance:
        for target in options.targets:
            for make in chosen:
                rows += measured(make, target, options.cuts, options.seed)
                advance()
                if options.json:
                    write_json(summary(rows), options.json)
    found = summary(rows)
    table = tables.table(
        ["model", "target", ">FLOPs", ">predicted", ">measured", ">error"],
        [
            (
                row["model"],
                row["target"],
                *(f"{row[key]:.3f}" for key in ("flops", "predicted", "measured")),
                tables.percent(row["error"]),
            )
            for row in rows
        ],
        title="Shares of the dense model's latency",
        notes=[
            f"Median error: {tables.percent(found['median_error'])}; "
            + ", ".join(f"{t} {tables.percent(found[t])}" for t in options.targets)
        ],
    )
    from rich.console import Console

    Console().print(table)


if __name__ == "__main__":
    main()
