"""Small models and data for the tests that train."""

import itertools

import keras
import numpy as np
from keras import layers, ops


def data(n=256, features=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).astype("float32")
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype("int32")


def mlp(features=20, built=True):
    stack = [layers.Dense(33, activation="relu", name="first"), layers.Dense(17, name="second")]
    stack += [layers.ReLU(), layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((features,)), *stack] if built else stack)


def compiled(model, optimizer="adam", **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


def kernels(model):
    """ "layer/weight" -> NumPy value of every weight of rank 2 and more."""
    return {
        "/".join(v.path.split("/")[-2:]): ops.convert_to_numpy(ops.cast(v.value, "float32"))
        for v in model.trainable_variables
        if len(v.shape) >= 2
    }


def zeros(model):
    return {name: int((value == 0).sum()) for name, value in kernels(model).items()}


def expected_zeros(model, sparsity):
    return {name: round(sparsity * value.size) for name, value in kernels(model).items()}


def backend():
    return keras.backend.backend()


def apply_step(optimizer, gradients, variables):
    """One step with these gradients, the way `fit` makes it."""
    gradients = [ops.convert_to_tensor(gradient) for gradient in gradients]
    if backend() == "jax":
        optimizer.build(variables)
        before = [[v.value for v in some] for some in (optimizer.variables, variables)]
        new = optimizer.stateless_apply(before[0], gradients, before[1])
        for variable, value in zip([*variables, *optimizer.variables], itertools.chain(*new)):
            variable.assign(value)
    elif backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(gradients, variables)
    else:
        optimizer.apply(gradients, variables)


def fit(model, *callbacks, epochs=4, batch_size=16, n=256, **kwargs):
    x, y = data(n)
    arguments = {"epochs": epochs, "batch_size": batch_size, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def schedule_of(model):
    return model.optimizer.groups[0].setting.schedule
