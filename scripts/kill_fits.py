"""Kill trainings at random steps and resume them: do they end as one that was not killed?

    python scripts/kill_fits.py --kills 20
    KERAS_BACKEND=jax python scripts/kill_fits.py --kills 20 --json out.json

A process that trains a model with `kprune.Pruning` kills itself with SIGKILL after a random number
of steps, and the next one resumes: from `BackupAndRestore` at each epoch, from `BackupAndRestore`
every few steps, and from the last `.keras` file of a `ModelCheckpoint`. The same is done without
kprune, with the same kills. Compared are the weights at the end with those of a training that was
not killed. Exit status 1 if the pruned ones differ where Keras' own do not, or if there are not
exactly as many zeros as were asked for.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

WAYS = "epoch backups", "batch backups", "checkpoints"
EPOCHS, STEPS, BATCH, EVERY = 16, 10, 16, 7
LONGEST = 40  # steps until a process kills itself
SPARSITY = 0.9


def train(folder, way, pruned, steps):
    """Train, or go on from what is in `folder`; write the weights, unless killed after `steps`."""
    from _start import start

    start()
    import keras

    import kprune

    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 20)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    first = 0
    files = sorted(folder.glob("*.keras"))
    if files:
        model, first = keras.models.load_model(files[-1]), int(files[-1].stem)
    else:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        hidden = [layers.Dense(33, activation="relu", name="a"), layers.BatchNormalization()]
        model = keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(2, name="b")])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01, use_ema=True), loss)
    callbacks = [kprune.Pruning(SPARSITY)] if pruned else []
    if way == "checkpoints":
        callbacks.append(keras.callbacks.ModelCheckpoint(str(folder / "{epoch:04d}.keras")))
    elif way:
        frequency = "epoch" if way == "epoch backups" else EVERY
        callbacks.append(keras.callbacks.BackupAndRestore(folder / "backup", frequency))
    if steps:
        callbacks.append(_dies_after(steps))
    model.fit(
        x, y, BATCH, EPOCHS, verbose=0, shuffle=False, initial_epoch=first, callbacks=callbacks
    )
    np.savez(folder / "end.npz", *model.get_weights())


def _dies_after(steps):
    import keras

    left = iter(range(steps - 1))

    def one_less(batch, logs):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return keras.callbacks.LambdaCallback(on_train_batch_end=one_less)


def ended(folder, way, pruned, lives):
    """Train in processes that live for so many steps each; return the weights at the end."""
    folder.mkdir()
    for steps in [*lives, 0]:
        arguments = [str(folder), way, str(int(pruned)), str(steps)]
        done = subprocess.run(
            [sys.executable, __file__, "--work", *arguments], capture_output=True, text=True
        )
        expected = -signal.SIGKILL if steps else 0
        if done.returncode != expected:
            raise RuntimeError(f"{way}, pruned={pruned}: {done.stderr[-2000:]}")
    with np.load(folder / "end.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def measure(kills, seed, say=lambda text: None):
    """Kill so many trainings each with and without kprune; return what was found, as plain data.

    Args:
        kills: int.
        seed: of the moments.
        say: called with a line after each way to resume.
    """
    moments, found = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = [ended(folder / f"whole {p}", "", p, ()) for p in (False, True)]
        for i, way in enumerate(WAYS):
            lives = [moments.randint(1, LONGEST) for _ in range(kills // 3 + (i < kills % 3))]
            # Steps that are made again from the last backup on: the run must outlive them all.
            lives = _affordable(lives, way)
            ends = [ended(folder / f"{way} {p}", way, p, lives) for p in (False, True)]
            equal = [_largest(a, b) for a, b in zip(whole, ends)]
            kernels = [value for value in ends[True] if value.ndim == 2]
            zeros = [int((value == 0).sum()) for value in kernels]
            asked = [round(SPARSITY * value.size) for value in kernels]
            found.append(
                {
                    "way": way,
                    "kills": len(lives),
                    "largest difference of Keras": equal[False],
                    "largest difference with kprune": equal[True],
                    "zeros": zeros,
                    "asked": asked,
                }
            )
            say(str(found[-1]))
    return found


def _affordable(lives, way):
    """Cut lives short so that the training is not over before the last of them."""
    most, every = EPOCHS * STEPS - STEPS, 1 if way == "batch backups" else STEPS
    made, kept = 0, []
    for i, steps in enumerate(lives):
        rest = most - made - (len(lives) - i)
        steps = max(1, min(steps, rest // 2))
        kept.append(steps)
        made = (made + steps) // every * every
    return kept


def _largest(a, b):
    return max(float(np.abs(one - other).max()) for one, other in zip(a, b))


def failed(found):
    """Return whether a pruned training went on otherwise than Keras' own."""
    return any(
        each["zeros"] != each["asked"]
        or (each["largest difference with kprune"] and not each["largest difference of Keras"])
        for each in found
    )


def main(
    kills: Annotated[int, typer.Option(min=3, help="How many trainings to kill.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write a JSON here.")] = None,
):
    """Kill trainings at random steps, resume them, and compare how they end."""
    found = measure(kills, seed, lambda text: print(text, file=sys.stderr, flush=True))
    for each in found:
        print(
            f"{each['way']}: {each['kills']} kills, largest difference of a weight "
            f"{each['largest difference with kprune']:g} (without kprune "
            f"{each['largest difference of Keras']:g}), zeros {each['zeros']} of {each['asked']}"
        )
    if json:
        from kprune.report.files import write_json

        write_json(json, found)
    sys.exit(failed(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        train(Path(sys.argv[2]), sys.argv[3], bool(int(sys.argv[4])), int(sys.argv[5]))
    else:
        typer.run(main)
