"""A small ResNet on Fashion-MNIST at half the FLOPs: prune, fine-tune, prune again.

    python scripts/reproduce_channels.py --json out.json
    python scripts/reproduce_channels.py --seeds 1 --flops 0.3 --rounds 3

Each seed trains a dense ResNet and brings it to the FLOPs asked for in `--rounds` rounds of
`kprune.prune_channels` and fine-tuning. Beside it stand, as controls:

- distilled: the same, but fine-tuned with the dense network as teacher (`keras.distillation`);
- random: the same, but the channels to remove are randomly selected;
- scratch: the small architecture with new weights, trained as long as the dense network and
  the fine-tuning together.

The recipe is the same for all: SGD with momentum, a learning rate that falls along a cosine to
0, images flipped at random. The accuracy is that on the 10,000 test images after the last
epoch, which no decision depends on; `--validate` measures on the last 10,000 training images
instead. Published for comparison: ResNet-56 on CIFAR-10 at 2.11x fewer FLOPs, 93.53% to 93.46%
(Fang et al., "DepGraph", 2023).
"""

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _data import images
from _progress import progress
from _start import start
from _tables import accuracies

ARMS = ("dense", "pruned", "distilled", "random", "scratch")
BATCH = 128
RATE, TUNING_RATE = 0.1, 0.05
WIDTHS = (16, 32, 64)
TEMPERATURE = 4.0


def build():
    """Return the ResNet, not compiled: a stem, six blocks, and logits."""
    import keras

    layers = keras.layers

    def conv(x, filters, kernel, strides=1):
        x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv(inputs, WIDTHS[0], 3, 2))
    for stage, filters in enumerate(WIDTHS):
        for strides in (1 if stage == 0 else 2, 1):
            straight = x if filters == x.shape[-1] else conv(x, filters, 1, strides)
            x = layers.ReLU()(conv(x, filters, 3, strides))
            x = layers.ReLU()(conv(x, filters, 3) + straight)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="resnet")


def batches(x, y, seed):
    """Return a dataset that shuffles the images, and flips half of them, in every epoch."""
    import keras

    class Flipped(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.random = np.random.default_rng(seed)
            self.on_epoch_end()

        def __len__(self):
            return -(-len(x) // BATCH)

        def __getitem__(self, i):
            chosen = self.order[i * BATCH : (i + 1) * BATCH]
            flipped = self.random.random(len(chosen)) < 0.5
            found = x[chosen]
            found[flipped] = found[flipped, :, ::-1]
            return found, y[chosen]

        def on_epoch_end(self):
            self.order = self.random.permutation(len(x))

    return Flipped()


def train(model, data, epochs, rate, seed, on_epoch, teacher=None):
    """Train a model in place for some epochs, with a teacher or without."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained = model
    if teacher is not None:
        logits = keras.distillation.LogitsDistillation(temperature=TEMPERATURE)
        trained = keras.distillation.Distiller(teacher, model, logits, student_loss_weight=0.5)
    steps = epochs * -(-len(data[0]) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    # XLA makes convolutions slower on CPUs.
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    trained.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4),
        loss,
        jit_compile=jit,
        steps_per_execution=1 if keras.backend.backend() == "torch" else 8,
    )
    callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    trained.fit(batches(*data, seed), epochs=epochs, verbose=0, callbacks=[callback])


def accuracy(model, data):
    """Return the share of images that a model gets right."""
    x, y = data
    return float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(axis=-1) == y))


def prune(model, share, rounds, epochs, criterion, data, seed, on_epoch, teacher=None):
    """Return the model at a share of its FLOPs: prune, fine-tune, prune, fine-tune."""
    import kprune

    dense = kprune.flops(model).total
    for done in range(rounds):
        wanted = dense * share ** ((done + 1) / rounds)
        model = kprune.prune_channels(
            model,
            flops=wanted / kprune.flops(model).total,
            criterion=criterion,
            round_to=4,
        )
        length = epochs // rounds + (epochs % rounds if done == rounds - 1 else 0)
        train(model, data, length, TUNING_RATE, seed + done, on_epoch, teacher)
    return model


def run(seed, share, rounds, epochs, tuning, data, on_epoch):
    """Train everything from one seed; return the figures as plain data."""
    import keras

    import kprune

    training, held_out = data
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    models = {"dense": build()}
    train(models["dense"], training, epochs, RATE, seed, on_epoch)

    def pruned(criterion, teacher=None):
        return prune(
            models["dense"], share, rounds, tuning, criterion, training, seed, on_epoch, teacher
        )

    models["pruned"] = pruned(kprune.Magnitude())
    teacher = keras.models.clone_model(models["dense"])
    teacher.set_weights(models["dense"].get_weights())
    models["distilled"] = pruned(kprune.Magnitude(), teacher)
    models["random"] = pruned(kprune.Random(seed))
    models["scratch"] = keras.models.clone_model(models["pruned"])
    train(models["scratch"], training, epochs + tuning, RATE, seed, on_epoch)
    return {
        "seed": seed,
        "accuracy": {arm: accuracy(models[arm], held_out) for arm in ARMS},
        "flops": {arm: kprune.flops(models[arm]).total for arm in ARMS},
        "parameters": {arm: models[arm].count_params() for arm in ARMS},
        "seconds": time.perf_counter() - begin,
    }


def show(console, found, of):
    """Print what was found: a row for each network, a column for each seed."""
    title = f"Accuracy on {of} after the last epoch"
    console.print(accuracies(found, ARMS, title))


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    flops: Annotated[float, typer.Option(help="The share of FLOPs that stays.")] = 0.5,
    rounds: Annotated[int, typer.Option(min=1, help="Of pruning and fine-tuning.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="For the dense network.")] = 10,
    tuning: Annotated[int, typer.Option(min=1, help="Epochs of fine-tuning, in all.")] = 6,
    validate: Annotated[bool, typer.Option(help="Leave the test images alone.")] = False,
    train_size: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where fashion_mnist.npz is.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON here.")] = None,
):
    """Halve the FLOPs of a ResNet on Fashion-MNIST, beside three controls."""
    start()
    from rich.console import Console

    from kprune.cli.common import plain_errors
    from kprune.report.files import write_json

    with plain_errors():
        data = images("fashion_mnist", data_dir, validate, train_size)
    of = f"{len(data[1][0]):,} {'validation' if validate else 'test'} images"
    runs = []
    with progress("Training", seeds * (2 * epochs + 4 * tuning)) as advance:
        for seed in range(seeds):
            with plain_errors():
                runs.append(run(seed, flops, rounds, epochs, tuning, data, advance))
            found = {
                "accuracy_on": of,
                "flops": flops,
                "rounds": rounds,
                "epochs": epochs,
                "tuning": tuning,
                "accuracy": {
                    arm: statistics.fmean(run["accuracy"][arm] for run in runs) for arm in ARMS
                },
                "runs": runs,
            }
            if json:
                write_json(json, found)  # After each seed: a run may take an hour.
    show(Console(), found, of)


if __name__ == "__main__":
    typer.run(main)
