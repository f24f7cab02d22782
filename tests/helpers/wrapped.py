"""Layers in pruning wrappers: schedules, models, and counts of what is zero in them."""

import keras
from keras import layers, ops

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import data, mlp

# 12 steps from 2 on are no multiple of 5: the last update is at the end nevertheless.
SCHEDULE = kprune.PolynomialDecay(0.1, 0.8, begin_step=2, end_step=14, frequency=5)
NOW = kprune.ConstantSparsity(0.6, 0, frequency=1)


def numpy(value):
    return ops.convert_to_numpy(ops.convert_to_tensor(value))


def fit(model, *callbacks, steps=14, epochs=2, **kwargs):
    x, y = data(16 * (steps // epochs))
    return model.fit(
        x, y, 16, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks), **kwargs
    )


def zeros(model):
    """Zeros in the weights themselves, and in the masks, of every wrapped weight."""
    return [
        (int((numpy(weight) == 0).sum()), int((~numpy(mask)).sum()))
        for wrapper in wrappers_in(model)
        for weight, mask, _ in wrapper.pruning_vars
    ]


def expected_zeros(model, sparsity):
    counts = [
        round(sparsity * numpy(weight).size)
        for wrapper in wrappers_in(model)
        for weight, _, _ in wrapper.pruning_vars
    ]
    return [(count, count) for count in counts]


def steps(model):
    return {int(numpy(wrapper.pruning_step)) for wrapper in wrappers_in(model)}


def wrapped_mlp(schedule=SCHEDULE, **kwargs):
    return kprune.prune_low_magnitude(mlp(), pruning_schedule=schedule, **kwargs)


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """Layers within a layer, with statistics, random numbers, and a loss of its own."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inside = layers.Dense(units)
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.dropout = layers.Dropout(0.5)
        self.outside = layers.Dense(units)

    def call(self, inputs):
        x = self.norm(self.inside(inputs))
        self.add_loss(ops.mean(ops.square(x)))
        return inputs + self.outside(self.dropout(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(8, activation="relu")
        self.alias = self.first
        self.stack = [layers.Dense(8), layers.Dropout(0.5), (layers.Dense(8),)]
        self.heads = {"a": layers.Dense(2, name="head_a"), "b": layers.Dense(3)}
        self.pair = (layers.LayerNormalization(), layers.Dense(8))
        self.nested = keras.Sequential([layers.Dense(8), layers.ReLU()])

    def call(self, inputs, training=None):
        def through(x, *stack):
            for layer in stack:
                x = layer(x, training=training)  # On JAX, Keras does not do so by itself.
            return x

        x = through(inputs, self.first, *self.stack[:2], self.stack[2][0], *self.pair, self.nested)
        return {name: through(x, head) for name, head in self.heads.items()}
