"""Trained networks, pruned at once from 512 images without labels: a table.

    python scripts/reproduce_oneshot.py --json out.json
    python scripts/reproduce_oneshot.py --channels --network cnn
    python scripts/reproduce_oneshot.py --network lenet-300-100 --seeds 1 --epochs 5
    pip install onnxsim && python scripts/reproduce_oneshot.py --onnxsim --network cnn

LeNet-300-100 on MNIST and a small CNN with batch normalizations on Fashion-MNIST are trained, and
then pruned by `kprune.prune_once` with each method, from the same weights and the same 512 images
of the training set; nothing is trained after it. The error is that on the 10,000 test images, which
nothing was chosen by. With `--channels` whole channels go. With `--onnxsim` that package's pruning
of the same network's ONNX file, on the same images, stands beside it (it needs `pip install
onnxsim`), its error in ONNX Runtime. `--network mobilenet` says instead how long a MobileNet of 4
million weights takes, and the most memory, with 512 random images of 128 x 128.

The data are those of `keras.datasets`, or of .npz files in `--data-dir` (KPRUNE_DATA_DIR).
"""

import inspect
import json
import math
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _start import start

EXAMPLES = 512
METHODS = ("magnitude", "wanda", "obs")
# What onnxsim calls its own, of single weights and of channels.
ONNXSIM = {
    False: ("apply_magnitude_pruning", "apply_wanda_pruning", "apply_sparsegpt_pruning"),
    True: ("apply_structured_pruning", "apply_structured_wanda_pruning"),
}
NETWORKS = {
    "lenet-300-100": ("mnist", (0.7, 0.8, 0.9), 40),
    "cnn": ("fashion_mnist", (0.5, 0.7, 0.8), 15),
}

CHANNEL_SPARSITIES = (0.3, 0.5, 0.7)


def build(name):
    """Return a network, not compiled; its outputs are logits."""
    import keras

    layers = keras.layers
    if name == "lenet-300-100":
        body = [layers.Flatten(), layers.Dense(300, "relu"), layers.Dropout(0.2)]
        body += [layers.Dense(100, "relu"), layers.Dropout(0.2), layers.Dense(10)]
        return keras.Sequential([keras.Input((28, 28, 1)), *body])
    body = []
    for filters in (16, 32, 64):
        body += [layers.Conv2D(filters, 3, padding="same", use_bias=False)]
        body += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    body += [layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.3), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *body])


def trained(name, x, y, epochs):
    """Return a network after training, compiled."""
    import keras

    model = build(name)
    steps = epochs * -(-len(x) // 128)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model


def rows_of(name, seed, data_dir, epochs, channels, onnxsim):
    """Yield a dict of figures for each method and sparsity."""
    import keras

    import kprune

    data, sparsities, usual = NETWORKS[name]
    pattern = kprune.Channels() if channels else kprune.Unstructured()
    sparsities = CHANNEL_SPARSITIES if channels else sparsities
    (x, y), (x_test, y_test) = images(data, data_dir)
    keras.utils.set_random_seed(seed)
    model = trained(name, x, y, epochs or usual)
    weights = model.get_weights()
    chosen = x[np.random.default_rng(seed).permutation(len(x))[:EXAMPLES]]

    def row(method, sparsity, begin, error=None, parameters=None):
        took = time.process_time() - begin
        if error is None:
            error = 1 - model.evaluate(x_test, y_test, batch_size=512, verbose=0)[1]
        if parameters is None:
            parameters = (kprune.shrink(model) if channels and sparsity else model).count_params()
        return {
            "network": name, "seed": seed, "method": method, "sparsity": sparsity,
            "error": error, "cpu_seconds": took, "parameters": parameters,
        }  # fmt: skip

    yield row("dense", 0.0, time.process_time())
    if onnxsim:
        for sparsity in sparsities:
            for method in ONNXSIM[channels]:
                begin = time.process_time()
                found = pruned_by_onnxsim(model, method, sparsity, chosen, x_test, y_test)
                yield row(f"onnxsim.{method}", sparsity, begin, *found)
    for sparsity in sparsities:
        for method in METHODS:
            model.set_weights(weights)
            begin = time.process_time()
            kprune.prune_once(model, sparsity, chosen, method, pattern=pattern)
            yield row(method, sparsity, begin)


def pruned_by_onnxsim(model, method, sparsity, chosen, x_test, y_test):
    """Return the error in ONNX Runtime and the number of weights of a network's pruned file."""
    import onnx
    import onnxruntime
    import onnxsim

    import kprune

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        kprune.export_onnx(model, path)
        dense = onnx.load(path)
    (name,) = (one.name for one in dense.graph.input)
    function, data = getattr(onnxsim, method), {}
    if "calibration_data" in inspect.signature(function).parameters:
        data["calibration_data"] = [{name: batch} for batch in np.split(chosen, len(chosen) // 64)]
    pruned = function(dense, sparsity=sparsity, **data)
    session = onnxruntime.InferenceSession(pruned.SerializeToString())
    predicted = [session.run(None, {name: part})[0] for part in np.split(x_test, 20)]
    error = float(np.mean(np.concatenate(predicted).argmax(axis=-1) != y_test))
    used = {name for node in pruned.graph.node for name in node.input}
    own = [one for one in pruned.graph.initializer if one.name in used]
    return error, sum(math.prod(one.dims) for one in own)


def mobilenet():
    """Return how long a MobileNet takes, and the most memory of the process, in figures."""
    import keras

    import kprune

    model = keras.applications.MobileNet(input_shape=(128, 128, 3), weights=None)
    x = np.random.default_rng(0).normal(size=(EXAMPLES, 128, 128, 3)).astype("float32")
    begin = time.perf_counter(), time.process_time()
    kprune.prune_once(model, 0.7, x)
    return {
        "parameters": model.count_params(),
        "seconds": time.perf_counter() - begin[0],
        "cpu_seconds": time.process_time() - begin[1],
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def table(rows):
    """Return lines of the mean errors, and the largest distance of a seed from them."""
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        methods = [m for m in dict.fromkeys(row["method"] for row in own) if m != "dense"]
        lines += ["", f"| {name} | dense | {' | '.join(methods)} | CPU s |"]
        lines += ["|" + "---|" * (len(methods) + 3)]
        dense = _mean(row["error"] for row in own if row["method"] == "dense")
        for sparsity in sorted({row["sparsity"] for row in own} - {0.0}):
            at = [row for row in own if row["sparsity"] == sparsity]
            errors = [_mean(row["error"] for row in at if row["method"] == m) for m in methods]
            took = statistics.median(row["cpu_seconds"] for row in at if row["method"] == "obs")
            lines.append(f"| {sparsity:.0%} | {dense} | {' | '.join(errors)} | {took:.1f} |")
    return lines


def _mean(errors):
    errors = [100 * error for error in errors]
    mean = statistics.mean(errors)
    return f"{mean:.2f} ± {max(abs(error - mean) for error in errors):.2f}%"


def main(
    network: Annotated[
        str | None, typer.Option(help="lenet-300-100, cnn or mobilenet; the first two.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Of the dense training.")] = None,
    channels: Annotated[bool, typer.Option("--channels", help="Prune whole channels.")] = False,
    onnxsim: Annotated[bool, typer.Option("--onnxsim", help="Beside onnxsim's pruning.")] = False,
    data_dir: Annotated[Path | None, typer.Option(envvar="KPRUNE_DATA_DIR")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
):
    """Prune trained networks at once, and print the errors."""
    start()
    found = {"rows": []}
    names = [name for name in NETWORKS if network in (None, name)]
    if network == "mobilenet":
        found["mobilenet"] = mobilenet()
        typer.echo(found["mobilenet"])
    for name in names:
        for seed in range(seeds):
            for row in rows_of(name, seed, data_dir, epochs, channels, onnxsim):
                found["rows"].append(row)
                typer.echo(row, err=True)
    typer.echo("\n".join(table(found["rows"])))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
