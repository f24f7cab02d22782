"""Run with TFMOT and tf_keras: writes wrapped `.h5` files, and what they hold and compute.

python write_h5.py FOLDER
"""

import os
import sys

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

layers, sparsity = keras.layers, tfmot.sparsity.keras
SCHEDULE = sparsity.PolynomialDecay(0.2, 0.8, 0, 6, frequency=2)


def layerwise():
    constant = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    blocks = {"block_size": (2, 2), "block_pooling_type": "MAX"}
    wrap = sparsity.prune_low_magnitude
    return keras.Sequential(
        [
            wrap(layers.Conv2D(4, 3, activation="relu"), SCHEDULE, input_shape=(6, 6, 3)),
            layers.DepthwiseConv2D(3),
            layers.BatchNormalization(),
            layers.Flatten(),
            wrap(layers.Dense(8, activation="relu"), constant, **blocks),
            layers.Dropout(0.3),
            wrap(layers.Dense(4), SCHEDULE),
        ]
    )


def whole():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(inputs)
    y = layers.Activation("relu")(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(6, 3, padding="same")(layers.DepthwiseConv2D(3, padding="same")(y))
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.SpatialDropout2D(0.1)(x)
    x = layers.Conv2DTranspose(4, 2)(x)
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    return sparsity.prune_low_magnitude(keras.Model(inputs, x), SCHEDULE)


def nested():
    inner = keras.Sequential([layers.Dense(8, input_shape=(12,)), layers.Dense(6)])
    model = keras.Sequential([layers.Reshape((12,), input_shape=(3, 4)), inner, layers.Dense(4)])
    return sparsity.prune_low_magnitude(model, SCHEDULE)


def never_trained():
    model = keras.Sequential([layers.Embedding(20, 8, input_length=5), layers.Flatten()])
    model.add(layers.Dense(4))
    return sparsity.prune_low_magnitude(model, SCHEDULE)


def write(make, folder):
    keras.backend.clear_session()
    model = make()
    random = np.random.RandomState(0)
    x = random.randint(0, 20, (32, *model.input_shape[1:])).astype("float32")
    y = random.randint(0, 4, 32)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if make is not never_trained:
        model.fit(x, y, 8, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    state = {"x": x, "y": model.predict(x, verbose=0)}
    for layer in model._flatten_layers():
        if type(layer).__name__ == "PruneLowMagnitude":
            state[f"{layer.name}/step"] = layer.pruning_step.numpy()
            for i, variables in enumerate(layer.pruning_vars):
                for name, variable in zip(("weight", "mask", "threshold"), variables):
                    state[f"{layer.name}/{i}/{name}"] = variable.numpy()
    model.save(f"{folder}/{make.__name__}.h5")
    np.savez(f"{folder}/{make.__name__}.npz", **state)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    for make in (layerwise, whole, nested, never_trained):
        write(make, sys.argv[1])
