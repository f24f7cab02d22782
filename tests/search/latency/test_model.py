"""What a latency model predicts, with operators whose times are a formula."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.search import LatencyModel
from kprune.structured.graph import ChannelGraph
from kprune.structured.groups import find_groups
from tests.helpers.clock import Clock, net


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def latency(model):
    return LatencyModel(model, "litert-x86", timer=Clock())


def test_the_model_itself(model, latency):
    assert latency.predict(model) == pytest.approx(latency.seconds)
    assert latency.share_of(model) == 1.0


def test_a_cut_is_predicted_without_its_file(model, latency):
    small = kprune.prune_channels(model, params=0.4, round_to=1)
    assert latency.predict(small) / latency.seconds == pytest.approx(latency.share_of(small))


def test_between_widths_that_were_timed_latency_is_estimated(latency):
    kept = np.where(latency._cuts.free, latency.counts - 5, latency.counts)
    estimated = latency.estimate(kept)
    assert estimated == pytest.approx(latency.measure(kept), rel=0.2)
    assert latency.estimate(kept) == latency.measure(kept)


def test_another_model_is_refused(latency):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="one"), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"neither that model nor a cut of it"):
        latency.predict(other)


def changed(**options):
    """A model like `net()`, but for this."""
    kernel, width = options.get("kernel", 3), options.get("width", 32)
    inputs = keras.Input((options.get("side", 8), 8, 3))
    x = layers.Conv2D(width, kernel, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(
        2 * width, 3, options.get("strides", 1), "same", activation="relu", name="wide"
    )(x)
    y = layers.Conv2D(width, 1, options.get("back", 1), name="narrow")(y)
    x = layers.add([layers.MaxPooling2D(options.get("strides", 1))(x), y])
    head = layers.Dense(options.get("classes", 4), name="head")
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def test_a_smaller_one_of_the_same_names_is_no_other(latency):
    assert latency.predict(changed(width=16)) < latency.seconds


@pytest.mark.parametrize(
    "options", [{"kernel": 5}, {"width": 33}, {"side": 16}, {"strides": 2}, {"classes": 3}]
)
def test_another_model_with_the_same_names_is_refused(latency, options):
    with pytest.raises(ValueError, match="nor a cut of it"):
        latency.predict(changed(**options))


def test_blocks_are_seen_in_the_times(latency):
    assert latency.block == 8


def test_it_prints_and_is_plain_data(latency):
    assert "CONV_2D" in str(latency)
    data = json.loads(json.dumps(latency.to_dict()))
    assert data["target"] == "litert-x86"
    assert {one["name"] for one in data["operators"]} >= {"CONV_2D", "FULLY_CONNECTED"}


@pytest.mark.slow
def test_operators_that_cannot_be_timed_alone_are_named(model):
    latency = LatencyModel(model, "litert-x86", timer=Clock(unknown=("MEAN",)))
    assert latency.notes == ["not timed alone, and taken to change as all others do: MEAN"]
    assert latency.predict(model) == pytest.approx(latency.seconds)


@pytest.mark.slow
def test_other_operators_with_fewer_channels_leave_flops(model, monkeypatch):
    monkeypatch.setattr("kprune.search.latency.cuts._outlines", lambda operators: object())
    with pytest.warns(UserWarning, match="has other operators than before") as warned:
        latency = LatencyModel(model, "litert-x86", timer=Clock())
    small = kprune.prune_channels(model, flops=0.5)
    share = kprune.flops(small).total / kprune.flops(model).total
    assert latency.predict(small) / latency.seconds == pytest.approx(share, rel=1e-6)
    assert "estimated by FLOPs" in latency.notes[0]
    assert any(one.filename == __file__ for one in warned)


def test_groups_of_a_cut_are_those_of_the_model(model, latency):
    small = kprune.prune_channels(model, channels=0.5)
    found = latency.channels_of(graph := ChannelGraph(small), find_groups(graph))
    assert (found <= latency.counts).all()
    assert (found < latency.counts).any()


@pytest.mark.slow
def test_times_are_kept_on_disk(model, latency_cache, monkeypatch):
    clocks = []

    def timer(target, threads, measured):
        clocks.append(Clock())
        return clocks[-1]

    monkeypatch.setattr("kprune.search.latency.model.timer_for", timer)
    one, again = (LatencyModel(model, "litert-x86") for _ in range(2))
    assert clocks[0].asked
    assert not clocks[1].asked
    assert again.to_dict() == one.to_dict()
    assert len(list(latency_cache.iterdir())) == 1
