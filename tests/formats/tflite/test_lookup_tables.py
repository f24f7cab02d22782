import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.formats.tflite import lookup_tables
from kprune.formats.tflite.constants import tflite_constants
from kprune.training.clustering.weight_clustering import cluster_once
from tests.helpers.runtimes import SKIP, needs_tensorflow

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def network():
    return keras.Sequential(
        [
            keras.Input((12, 12, 4)),
            layers.Conv2D(64, 5, use_bias=False),
            layers.BatchNormalization(gamma_initializer="random_normal"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, depth_multiplier=4),
            layers.Flatten(),
            layers.Dense(7),
        ]
    )


def plain(model, path, **options):
    kprune.export_tflite(model, path, sparse=False, **options)
    return path.read_bytes()


@pytest.mark.parametrize("quantize", [None, pytest.param("int8", marks=pytest.mark.slow)])
def test_tables_hold_exactly_the_values_of_the_plain_file(tmp_path, quantize):
    model = network()
    cluster_once(model, 11)
    x = np.random.default_rng(0).normal(size=(16, 12, 12, 4)).astype("float32")
    blob = plain(model, tmp_path / "m.tflite", quantize=quantize, representative_data=x)
    tables = lookup_tables.find(blob)
    # The kernel that the BatchNormalization was folded into has a table for each channel.
    integers = quantize == "int8"
    axes = sorted(str(table.axis) for table in tables.values())
    # In int8 it has nine entries for each channel of the depthwise one, and a table as large.
    assert axes == (["0", "0"] if integers else ["0", "None", "None"])
    assert {table.bits for table in tables.values()} == {4}
    small = lookup_tables.transform(blob, tables)
    expected = {c.values.size: c for c in tflite_constants(blob)}
    found = lookup_tables.decoded(small)
    assert len(found) == len(tables)
    for constant in found:
        np.testing.assert_array_equal(constant.values, expected[constant.values.size].values)
        assert (constant.dtype, constant.encoding) == (quantize or "float32", "4-bit table")
        assert constant.values.size not in {c.values.size for c in tflite_constants(small)}
    saved = sum(c.values.size for c in found) * (0.5 if integers else 3.5)
    assert len(small) < len(blob) - 0.8 * saved


@pytest.mark.slow
def test_a_weight_of_too_many_values_or_too_few_entries_stays_as_it_is(tmp_path):
    model = keras.Sequential([keras.Input((40,)), layers.Dense(30), layers.Dense(3)])
    blob = plain(model, tmp_path / "m.tflite")
    assert lookup_tables.find(blob) == {}
    cluster_once(model, 200)
    assert lookup_tables.find(plain(model, tmp_path / "m.tflite")) == {}
    cluster_once(model, 100)
    (table,) = lookup_tables.find(plain(model, tmp_path / "m.tflite")).values()
    assert (table.bits, table.axis) == (7, None)


def test_zeros_are_a_value_of_their_own(tmp_path):
    model = keras.Sequential([keras.Input((40,)), layers.Dense(30)])
    kernel = model.layers[0].kernel
    value = np.array(kernel)
    value[:10] = 0
    kernel.assign(value)
    cluster_once(model, 15)
    blob = plain(model, tmp_path / "m.tflite")
    (constant,) = lookup_tables.decoded(lookup_tables.transform(blob, lookup_tables.find(blob)))
    assert constant.encoding == "4-bit table"
    np.testing.assert_array_equal(constant.codes == 0, constant.values == 0)
    assert len(np.unique(constant.codes)) == 16
