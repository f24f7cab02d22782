"""The smaller model computes what the model computes with those channels set to zero."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kprune.structured.surgery import cut
from tests.helpers.masking import (
    choose,
    gone_of,
    graph_and_groups,
    mask,
    outputs,
    random_inputs,
    randomize,
)
from tests.helpers.topologies import FROZEN, TOPOLOGIES

# Eager JAX compiles every operation for every shape.
_EXAMPLES = 1 if keras.backend.backend() == "jax" else 3


@functools.cache
def _case(name):
    keras.utils.set_random_seed(0)
    model = TOPOLOGIES[name]()
    randomize(model)
    graph, groups = graph_and_groups(model)
    return model, graph, groups, random_inputs(model), model.get_weights()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_only_what_must_stay_is_frozen(name):
    groups = _case(name)[2]
    frozen = {maker for group in groups if group.frozen for maker in group.producers}
    assert frozen == FROZEN[name], [(g.name, g.frozen) for g in groups if g.frozen]


@pytest.mark.fast_for(
    "mlp",
    "vgg",
    "resnet",
    "unet",
    "siamese",
    "text_conv1d",
    "lstm_stack",
    "rms_transformer",
    "dictionaries",
    "channel_shuffle",
)
@pytest.mark.parametrize("name", TOPOLOGIES)
@settings(max_examples=_EXAMPLES, phases=[Phase.generate])
@given(seed=st.integers(0, 2**31))
def test_smaller_model_is_the_masked_model(name, seed):
    model, graph, groups, inputs, weights = _case(name)
    free = [group for group in groups if not group.frozen and not group.inexact]
    chosen = choose(free, seed)
    try:
        mask(chosen)
        expected = outputs(model, inputs)
        small = cut(graph, gone_of(chosen))
        got = outputs(small, inputs)
    finally:
        model.set_weights(weights)
    tolerance = 1e-2 if name == "mixed_float16" else 1e-5
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)
    if any(gone.any() for _, gone in chosen):
        assert small.count_params() < model.count_params()
