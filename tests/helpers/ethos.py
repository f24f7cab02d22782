"""Small int8 models for an Arm Ethos-U, exported once for all tests of a process."""

import functools
import importlib.util
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from tests.helpers.runtimes import needs_tensorflow

TARGET = "ethos-u55-128"
needs_vela = pytest.mark.skipif(
    needs_tensorflow or importlib.util.find_spec("ethosu") is None,
    reason="needs TensorFlow and Vela",
)


def small():
    """A convolution, whose arithmetic takes the time, and a dense layer, whose weights do."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12, 12, 4), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(512, "relu", name="wide"),
            layers.Dense(32, name="head"),
        ],
        name="small",
    )


def samples():
    """What it is calibrated by."""
    return np.random.default_rng(0).normal(size=(32, 12, 12, 4)).astype("float32")


def export(model, path, **options):
    """Export in int8, whatever rounding does to weights that no one has trained."""
    options = {"quantize": "int8", "representative_data": samples()} | options
    return kprune.export_tflite(model, path, tolerance=2.0, **options)


@functools.cache
def exported(sparsity=0.0, target=None):
    """Return (path, `ExportReport`) of the small model; the folder goes with the process."""
    model = small()
    if sparsity:
        kprune.prune_once(model, sparsity, samples(), "magnitude")
    path = Path(_folder().name) / f"{sparsity}-{target}.tflite"
    return path, export(model, path, target=target)


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="kprune-tests-")
