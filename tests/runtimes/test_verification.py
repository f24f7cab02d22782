"""Comparing outputs: figures and refusals, on arrays."""

import keras
import numpy as np
import pytest

from kprune.export import VerificationError
from kprune.runtimes import verification
from tests.helpers.zoo import ZOO


def difference(reference, output, class_scores=False):
    return verification.compare("y", np.array(reference), np.array(output), class_scores)


def test_figures():
    d = difference([[0.0, -4.0], [2.0, 0.0]], [[0.0, -4.0], [2.0, 1.0]])
    assert (d.max_abs_diff, d.max_rel_diff) == (1.0, 0.25)
    assert d.rms_rel_diff == pytest.approx(np.sqrt(1 / 20))
    assert d.top1_agreement is None


def test_top1_agreement():
    d = difference([[0.9, 0.1], [0.6, 0.4]], [[0.8, 0.2], [0.4, 0.6]], class_scores=True)
    assert d.top1_agreement == 0.5


def test_zeros_against_zeros():
    d = difference(np.zeros((2, 3)), np.zeros((2, 3)))
    assert (d.max_rel_diff, d.rms_rel_diff) == (0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_in_the_file_only(bad):
    with pytest.raises(VerificationError, match="1 NaN or infinite"):
        difference([1.0, 2.0], [1.0, bad])
    assert difference([1.0, -np.inf], [1.0, -np.inf]).max_abs_diff == 0


def test_shapes():
    with pytest.raises(VerificationError, match=r"\(2, 3\) in the file and \(2, 4\) in Keras"):
        difference(np.zeros((2, 4)), np.zeros((2, 3)))


@pytest.mark.parametrize("quantize", verification.TOLERANCES)
def test_tolerances(quantize):
    tolerance = verification.TOLERANCES[quantize]
    reference = np.ones((4, 5))
    verification.check([difference(reference, reference * (1 + 0.9 * tolerance))], quantize)
    far = [difference(reference, reference * (1 + 1.1 * tolerance))]
    with pytest.raises(VerificationError, match="'y': largest difference"):
        verification.check(far, quantize)
    verification.check(far, quantize, tolerance=2 * tolerance)


def test_one_stray_value_fails_a_float_file_but_not_an_integer_one():
    reference = np.ones((100, 10))
    output = reference.copy()
    output[3, 3] = 1.5
    with pytest.raises(VerificationError, match=r"is 0\.5,"):
        verification.check([difference(reference, output)], None)
    verification.check([difference(reference, output)], "int8")


def test_class_scores():
    model = ZOO["mlp"]()
    logits, scores = np.array([[1.0, -2.0]]), np.array([[0.25, 0.75]])
    assert verification.holds_class_scores(model, [logits, scores]) == [False, True]
    assert verification.holds_class_scores(model, [scores[:, :1]]) == [False]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert verification.holds_class_scores(model, [logits]) == [True]


def test_keras_runs_in_batches_of_its_own_size():
    model = keras.Sequential([keras.Input(batch_shape=(4, 3)), keras.layers.Dense(2)])
    from kprune.graphs.signature import describe

    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    reference = verification.run_keras(model, describe(model), [x])
    expected = x @ np.array(model.layers[0].kernel) if model.layers else None
    assert reference.names == [model.layers[-1].name]
    np.testing.assert_allclose(reference.outputs[0], expected, atol=1e-6)
