"""A pruned MobileNet-like network on Fashion-MNIST in 8 bits: quantization-aware, and not.

    python scripts/reproduce_quantization.py --json out.json
    python scripts/reproduce_quantization.py --seeds 1 --sparsity 0.9

Each seed trains one network of depthwise separable convolutions with `kprune.Pruning`, and
fine-tunes it for some more epochs with the zeros held, twice from the same weights: in float, and
with `kprune.QuantizationAware`. Both go to a full int8 `.tflite`, calibrated on the same 500
training images. The accuracies are those of the files, run in LiteRT on the 10,000 test images,
which no decision depends on; `--validate` takes the last 10,000 training images instead.

The method is TFMOT's PQAT: quantization-aware training that preserves sparsity.
"""

import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer
from _data import images
from _litert import accuracy
from _progress import progress
from _start import start

BATCH = 128
CALIBRATED_ON = 500
ARMS = ("float", "int8", "int8, quantization-aware")


def build(width):
    """Return the network, not compiled; its outputs are logits."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    for filters, strides in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
        x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters * width, 1, use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization()(x))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="separable")


def train(model, data, epochs, rate, callbacks):
    """Train a model in place, the learning rate falling along a cosine to 0."""
    import keras

    steps = epochs * -(-len(data[0]) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        steps_per_execution=1 if keras.backend.backend() == "torch" else 20,
    )
    model.fit(*data, BATCH, epochs, verbose=0, callbacks=callbacks)


def exported(model, folder, data, quantize):
    """Export a model; return `(accuracy of the file, share of the model's zeros that it has)`."""
    import kprune

    calibration = data[0][0][:CALIBRATED_ON] if quantize else None
    with warnings.catch_warnings():  # The zeros are not there to be faster.
        warnings.simplefilter("ignore", kprune.export.NotFasterWarning)
        report = kprune.export_tflite(
            model, folder / "m.tflite", quantize=quantize, representative_data=calibration
        )
    zeros = kprune.measure.sparsity(model).sparsity
    return accuracy(Path(report.path).read_bytes(), *data[1]), report.sparsity / zeros


def reproduce(seed, data, width, sparsity, epochs, tuning, on_epoch):
    """Run all arms from one seed; return the figures as plain data."""
    import keras

    import kprune

    counts = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    keras.utils.set_random_seed(seed)
    model = build(width)
    train(model, data[0], epochs, 3e-3, [kprune.Pruning(sparsity), counts])
    weights = model.get_weights()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for aware in (False, True):
            model.set_weights(weights)
            keras.utils.set_random_seed(seed)
            callbacks = [kprune.Pruning(sparsity), counts]
            callbacks += [kprune.QuantizationAware()] if aware else []
            train(model, data[0], tuning, 3e-4, callbacks)
            model = kprune.strip_pruning(model)
            if not aware:
                found[ARMS[0]], _ = exported(model, Path(folder), data, None)
            found[ARMS[1 + aware]], kept = exported(model, Path(folder), data, "int8")
            found[f"{ARMS[1 + aware]}: zeros kept"] = kept
    return {"seed": seed, "sparsity": kprune.measure.sparsity(model).sparsity, **found}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    sparsity: Annotated[float, typer.Option(help="Of every kernel.")] = 0.8,
    epochs: Annotated[int, typer.Option(min=1, help="Of training with pruning.")] = 8,
    tuning: Annotated[int, typer.Option(min=1, help="Epochs of each fine-tuning.")] = 2,
    width: Annotated[int, typer.Option(min=1, help="Filters of the first layer.")] = 16,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where fashion_mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Quantize a pruned network to int8 with and without quantization-aware fine-tuning."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.pruning.schedules import check_sparsity
    from kprune.report import tables
    from kprune.report.files import write_json

    with plain_errors():
        check_sparsity(sparsity)
        data = images("fashion_mnist", data_dir, validate, train_size)
    with progress("Training", seeds * (epochs + 2 * tuning)) as advance:
        runs = [
            reproduce(seed, data, width, sparsity, epochs, tuning, advance) for seed in range(seeds)
        ]
    means = {arm: statistics.fmean(run[arm] for run in runs) for arm in ARMS}
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    rows = [(str(run["seed"]), *(tables.percent(run[arm]) for arm in ARMS)) for run in runs]
    total = ("mean", *(tables.percent(means[arm]) for arm in ARMS))
    title = f"Accuracy of the files on {of}, {tables.percent(runs[0]['sparsity'])} zeros"
    console = Console()
    console.print(
        tables.table(["seed", *(f">{arm}" for arm in ARMS)], rows, title=title, total=total)
    )
    kept = min(run[f"{arm}: zeros kept"] for run in runs for arm in ARMS[1:])
    console.print(f"Of the model's zeros the int8 files keep at least {tables.percent(kept)}.")
    if json:
        write_json(json, {"accuracy_on": of, "means": means, "runs": runs})


if __name__ == "__main__":
    typer.run(main)
