"""Models of `keras.applications`, small: exact, and pruned to half their FLOPs."""

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt

import kprune
from kprune.structured.surgery import cut
from tests.helpers.masking import (
    choose,
    gone_of,
    graph_and_groups,
    mask,
    outputs,
    randomize,
)

applications = keras.applications
MODELS = {
    "MobileNetV2": lambda: applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classifier_activation=None, classes=10
    ),
    "MobileNetV3Small": lambda: applications.MobileNetV3Small(
        (32, 32, 3), weights=None, classifier_activation=None, classes=10
    ),
    "ConvNeXt": lambda: ConvNeXt(
        (1, 1, 2, 1), (16, 16, 24, 32), default_size=32, input_shape=(32, 32, 3), weights=None,
        classes=10, classifier_activation=None,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_application_is_halved_and_exact(name):
    model = MODELS[name]()
    randomize(model)
    images = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 3)).astype("float32")
    small = kprune.prune_channels(model, flops=0.5)
    assert abs(kprune.flops(small).total / kprune.flops(model).total - 0.5) <= 0.01
    assert np.isfinite(outputs(small, images)[0]).all()

    graph, groups = graph_and_groups(model)
    assert {reason for group in groups for reason in group.frozen} == {"an output of the model"}
    chosen = choose([g for g in groups if not g.frozen and not g.inexact], seed=0)
    mask(chosen)
    (expected,), (got,) = outputs(model, images), outputs(cut(graph, gone_of(chosen)), images)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
