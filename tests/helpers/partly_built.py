"""Models that Keras trains and predicts with, though not every layer in them is built."""

import keras
import numpy as np
from keras import layers, ops

from tests.helpers.training import backend


class Detector(keras.Model):
    """The auxiliary head is for pretraining only, and never built here."""

    def __init__(self):
        super().__init__()
        self.body, self.head = layers.Dense(8, activation="relu"), layers.Dense(3)
        self.auxiliary = layers.Dense(5)

    def call(self, x, pretrain=False):
        return self.auxiliary(self.body(x)) if pretrain else self.head(self.body(x))


def embedding():
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(6)(layers.Dense(16, activation="relu")(inputs)))


class Siamese(keras.Model):
    """One embedding model, called twice."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = embedding(), layers.Dense(1)

    def call(self, inputs):
        first, second = inputs
        return self.head(ops.abs(self.embedding(first) - self.embedding(second)))


class Wrapper(keras.Model):
    """Is never called: its `train_step`, not for JAX, calls the model inside it."""

    def __init__(self):
        super().__init__()
        first, second = keras.Input((8,)), keras.Input((8,))
        encoder = embedding()
        distance = ops.sum(ops.square(encoder(first) - encoder(second)), axis=-1)
        self.network = keras.Model([first, second], distance)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.network(inputs)

    def train_step(self, pairs):
        pairs = keras.tree.flatten(pairs)[:2]
        variables = self.network.trainable_weights
        if backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(self.network(pairs) - 1))
            gradients = tape.gradient(loss, variables)
        else:
            self.zero_grad()
            loss = ops.mean(ops.square(self.network(pairs) - 1))
            loss.backward()
            gradients = [variable.value.grad for variable in variables]
        self.optimizer.apply(gradients, variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def text():
    """A model of strings, for TensorFlow: the layer that looks words up is not built by itself."""
    words = layers.TextVectorization(20, output_sequence_length=6)
    words.adapt(["a b c", "d e f g"])
    stack = [layers.Embedding(20, 8), layers.GlobalAveragePooling1D()]
    stack += [layers.Dense(16, activation="relu"), layers.Dense(1)]
    return keras.Sequential([keras.Input((), dtype="string"), words, *stack])


def rows(width, n=4):
    return np.random.default_rng(0).normal(size=(n, width)).astype("float32")
