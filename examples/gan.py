"""A GAN whose generator is pruned and becomes a TFLite file.

    python examples/gan.py
    python examples/gan.py --data-dir FOLDER  # FOLDER/mnist.npz

The `train_step` makes steps with two optimizers that are attributes of the model. One
`kprune.Pruning` finds both, and each prunes the weights that it trains; `layers` leaves the
discriminator dense here, since only the generator is deployed.

Needs KERAS_BACKEND=tensorflow: a `train_step` that computes gradients is written for one backend.
On torch it is written with `loss.backward()`, and kprune finds the optimizers in the same way. On
JAX, Keras carries the state of one optimizer only.
"""

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
import typer
from keras import layers

import kprune

NOISE = 64


def load(data_dir):
    """Return the training images of MNIST, in [-1, 1]."""
    if data_dir is None:
        (images, _), _ = keras.datasets.mnist.load_data()
    else:
        with np.load(data_dir / "mnist.npz", allow_pickle=False) as arrays:
            images = arrays["x_train"]
    return images[..., None].astype("float32") / 127.5 - 1


def build_generator():
    """Return the model that makes images of noise."""
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(7 * 7 * 64, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Reshape((7, 7, 64)),
            layers.Conv2DTranspose(32, 4, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="tanh"),
        ],
        name="generator",
    )


def build_discriminator():
    """Return the model that tells images of the data from those of the generator."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 4, strides=2, padding="same"),
            layers.LeakyReLU(),
            layers.Dropout(0.3),
            layers.Conv2D(32, 4, strides=2, padding="same"),
            layers.LeakyReLU(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(1),
        ],
        name="discriminator",
    )


class GAN(keras.Model):
    """Trains a generator and a discriminator against each other."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    def compile(self, generator_optimizer, discriminator_optimizer):
        """Keep both optimizers as attributes, where kprune finds them."""
        super().compile(jit_compile=False)  # XLA makes convolutions slower on CPUs.
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer

    def call(self, noise):
        """Return what the discriminator says of generated images."""
        return self.discriminator(self.generator(noise))

    def train_step(self, images):
        """Make one step of each optimizer."""
        noise = tf.random.normal((tf.shape(images)[0], NOISE))

        with tf.GradientTape() as tape:
            real = self.discriminator(images, training=True)
            fake = self.discriminator(self.generator(noise, training=True), training=True)
            loss = self.loss_of(tf.ones_like(real), real) + self.loss_of(tf.zeros_like(fake), fake)
        variables = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply(tape.gradient(loss, variables), variables)

        with tf.GradientTape() as tape:
            fake = self.discriminator(self.generator(noise, training=True), training=True)
            generator_loss = self.loss_of(tf.ones_like(fake), fake)
        variables = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(generator_loss, variables), variables)
        return {"discriminator_loss": loss, "generator_loss": generator_loss}


def main(
    data_dir: Annotated[
        Path | None, typer.Option(envvar="KPRUNE_DATA_DIR", help="Where mnist.npz is.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    train_size: Annotated[int, typer.Option(min=1, help="How many images.")] = 20_000,
    out: Annotated[Path, typer.Option(help="Folder for the file and the picture.")] = Path("."),
):
    """Train a GAN, prune its generator, and export it."""
    keras.utils.set_random_seed(0)
    images = load(data_dir)[:train_size]
    gan = GAN(build_generator(), build_discriminator())
    gan.build((None, NOISE))
    gan.compile(keras.optimizers.Adam(2e-4, 0.5), keras.optimizers.Adam(2e-4, 0.5))

    pruning = kprune.Pruning(0.8, layers={"discriminator": None})
    gan.fit(images, batch_size=128, epochs=epochs, verbose=2, callbacks=[pruning])

    gan = kprune.strip_pruning(gan)  # Both optimizers are plain again.
    print(kprune.sparsity(gan.generator))
    print(kprune.export_tflite(gan.generator, out / "generator.tflite"))

    digits = gan.generator.predict(np.random.default_rng(0).normal(size=(40, NOISE)), verbose=0)
    picture = digits.reshape(4, 10, 28, 28).transpose(0, 2, 1, 3).reshape(4 * 28, 10 * 28, 1)
    keras.utils.save_img(out / "digits.png", picture)


if __name__ == "__main__":
    typer.run(main)
