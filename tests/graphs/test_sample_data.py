"""Inputs for verification and calibration; no converter, so on every backend."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.graphs import sample_data
from kprune.graphs.signature import describe
from tests.helpers.zoo import ZOO


def test_ids_stay_inside_the_vocabulary_that_reads_them():
    model = ZOO["dict_io"]()
    signature = describe(model)
    arrays = dict(
        zip([s.name for s in signature.flat], sample_data.generate(model, signature, 200))
    )
    ids = arrays["text"]
    assert ids.dtype == "int32"
    assert (ids.min(), ids.max()) == (0, 29)
    assert (ids[100:, -2:] == 0).all()  # padded
    assert arrays["image"].dtype == "float32"
    assert abs(arrays["image"].mean()) < 0.1
    assert 0.9 < arrays["image"].std() < 1.1


def test_float_inputs_that_hold_ids():
    model = ZOO["masked_text"]()
    (ids,) = sample_data.generate(model, describe(model), 100)
    assert ids.dtype == "float32"
    assert (ids == ids.round()).all()
    assert (ids.min(), ids.max()) == (0, 49)


def test_an_embedding_inside_a_nested_model_is_found():
    inner = keras.Sequential([keras.Input((5,)), layers.Embedding(11, 3), layers.Flatten()])
    ids, image = keras.Input((5,)), keras.Input((4, 4, 1))
    model = keras.Model([ids, image], [inner(ids), layers.Flatten()(image)])
    generated, pixels = sample_data.generate(model, describe(model), 100)
    assert set(np.unique(generated)) == set(range(11))
    assert (pixels != pixels.round()).any()


def test_range_of_a_rescaling_layer():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255)])
    (images,) = sample_data.generate(model, describe(model), 20)
    assert images.min() >= 0
    assert 250 < images.max() <= 255


def test_booleans_and_free_dimensions():
    mask, steps = keras.Input((None,), dtype="bool"), keras.Input((None, 3))
    model = keras.Model([mask, steps], layers.Attention()([steps, steps], mask=[mask, mask]))
    bools, floats = sample_data.generate(model, describe(model), 4)
    assert bools.dtype == "bool"
    assert bools.shape == (4, sample_data.FREE_STEPS)
    assert floats.shape == (4, sample_data.FREE_STEPS, 3)


X = np.arange(60, dtype="float64").reshape(20, 3)


@pytest.mark.parametrize(
    "given",
    [
        X,
        [X],
        {"input": X},
        X.tolist(),
        iter([X[:8], X[8:]]),
        ([row] for row in X),
        (row for row in X),
        lambda: ([row[None]] for row in X),
        ((X[i : i + 5], np.zeros(5)) for i in range(0, 20, 5)),
        ({"input": X[i : i + 5]} for i in range(0, 20, 5)),
    ],
)
def test_one_input_calibrated_with(given):
    signature = describe(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    (array,), note = sample_data.calibration_arrays(signature, given)
    np.testing.assert_array_equal(array, X.astype("float32"))
    assert note is None


@pytest.mark.parametrize(
    "given",
    [
        [X, 2 * X],
        {"zeta": X, "alpha": 2 * X},
        ((X[i : i + 5], 2 * X[i : i + 5]) for i in range(0, 20, 5)),
        (((row, 2 * row), 1) for row in X),
        ({"zeta": row[None], "alpha": 2 * row[None]} for row in X),
    ],
)
def test_two_inputs_calibrated_with(given):
    a, b = keras.Input((3,), name="zeta"), keras.Input((3,), name="alpha")
    signature = describe(keras.Model([a, b], a + b))
    arrays, _ = sample_data.calibration_arrays(signature, given)
    np.testing.assert_array_equal(arrays, [X, 2 * X])


def test_much_calibration_data_is_thinned_out_and_said_so():
    signature = describe(keras.Sequential([keras.Input((1,)), layers.Dense(1)]))
    many = np.arange(5000.0)[:, None]
    (array,), note = sample_data.calibration_arrays(signature, many)
    assert len(array) == sample_data.CALIBRATION_SAMPLES
    assert (array[0, 0], array[-1, 0]) == (0, 4999)
    assert "512 of 5000" in note
    (array,), note = sample_data.calibration_arrays(
        signature, (many[i : i + 100] for i in range(5000))
    )
    assert len(array) == sample_data.CALIBRATION_SAMPLES
    assert "first 512" in note


def test_what_is_no_data():
    signature = describe(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    with pytest.raises(TypeError, match="Received: 7"):
        sample_data.calibration_arrays(signature, 7)
