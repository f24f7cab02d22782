"""`prune_channels(latency=...)`, with operators whose times are a formula."""

import itertools
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.search import LatencyModel, write_operators
from kprune.search.latency.cuts import Cuts
from kprune.search.latency.device import DeviceTimer
from kprune.structured.latency import widest_rounding
from tests.helpers.clock import Clock, device_times, net


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return net(64)


@pytest.fixture(scope="module")
def cuts(model):
    return Cuts(model, "tflite")


@pytest.fixture
def latency_of(model, cuts, monkeypatch):
    """A function from a clock to a latency model, without an export for each."""

    def made(clock):
        cuts.notes.clear()
        with monkeypatch.context() as patch:
            patch.setattr("kprune.search.latency.model.Cuts", lambda *_: cuts)
            return LatencyModel(model, "litert-x86", timer=clock)

    return made


def test_the_measured_whole_is_within_the_budget(model, latency_of):
    latency, wanted = latency_of(Clock()), 0.5
    small = kprune.prune_channels(model, latency=wanted, latency_model=latency)
    assert latency.share_of(small) == pytest.approx(wanted, rel=0.05)
    widths = [small.get_layer(name).filters for name in ("stem", "wide")]
    assert all(width % latency.block == 0 for width in widths)


@pytest.mark.slow
def test_what_no_operator_has_is_corrected_by_the_whole(model, latency_of):
    clock = Clock()
    clock.constant = 0.4 * latency_of(clock).seconds
    clock.base = lambda: clock.constant / 2  # Of which half is not seen.
    latency = latency_of(clock)
    small = kprune.prune_channels(model, latency=0.6, latency_model=latency, round_to=1)
    assert latency.share_of(small) == pytest.approx(0.6, rel=0.05)
    predicted, reached = min(latency.history, key=lambda pair: abs(pair[1] - 0.6))
    assert reached == pytest.approx(latency.share_of(small))
    assert predicted == pytest.approx(latency.predict(small) / latency.seconds)


@pytest.mark.slow
def test_a_model_that_was_cut_is_cut_again_with_the_same_times(model, latency_of):
    latency = latency_of(Clock())
    once = kprune.prune_channels(model, latency=0.7, latency_model=latency)
    twice = kprune.prune_channels(once, latency=0.7, latency_model=latency)
    assert latency.share_of(twice, once) == pytest.approx(0.7, rel=0.05)


@pytest.mark.slow
def test_criterion_allocation_and_layers(model, latency_of):
    latency = latency_of(Clock(block=4))
    small = kprune.prune_channels(
        model, latency=0.6, latency_model=latency, criterion=kprune.Random(0),
        allocation=kprune.Uniform(), layers="wide",
    )  # fmt: skip
    assert small.get_layer("stem").filters == 64
    assert latency.share_of(small) == pytest.approx(0.6, rel=0.06)


@pytest.mark.slow
def test_coarse_blocks_give_way_where_the_budget_is_out_of_reach():
    model = net(16)
    latency = LatencyModel(model, "litert-x86", timer=Clock(block=1))
    latency._block = 16
    small = kprune.prune_channels(model, latency=0.4, latency_model=latency)
    assert latency.share_of(small) == pytest.approx(0.4, rel=0.05)


@pytest.mark.slow
def test_out_of_reach(model, latency_of):
    clock = Clock()
    clock.constant = 3 * latency_of(clock).seconds
    clock.base = lambda: clock.constant
    latency = latency_of(clock)
    with pytest.raises(
        ValueError, match=r"latency=0.5 is out of reach: .* stays.*empty file takes 0\.\d+"
    ):
        kprune.prune_channels(model, latency=0.5, latency_model=latency)


def test_times_of_a_device(model, cuts, latency_of, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("kprune.search.latency.device.Cuts", lambda *_: cuts)
    monkeypatch.setattr("kprune.search.latency.model.Cuts", lambda *_, **__: cuts)
    paths = write_operators(model, "litert-arm64", tmp_path / "operators")
    measured = device_times(paths, clock, tmp_path / "device.json")
    with pytest.warns(UserWarning, match="was not timed as a whole") as warned:
        small = kprune.prune_channels(model, latency=0.5, target="litert-arm64", measured=measured)
    (warning,) = [one for one in warned if one.category is UserWarning]
    assert warning.filename == __file__
    assert latency_of(clock).share_of(small) == pytest.approx(0.5, rel=0.1)


@pytest.fixture
def device(model, cuts, tmp_path, monkeypatch):
    """A function that cuts by a device's times, after a function has changed their rows."""
    monkeypatch.setattr("kprune.search.latency.device.Cuts", lambda *_: cuts)
    monkeypatch.setattr("kprune.search.latency.model.Cuts", lambda *_, **__: cuts)
    paths = write_operators(model, "litert-arm64", tmp_path / "operators")
    path = device_times(paths, Clock(), tmp_path / "device.json")

    def pruned(change):
        data = json.loads(path.read_text())
        change(data["rows"])
        path.write_text(json.dumps(data))
        return kprune.prune_channels(model, latency=0.5, target="litert-arm64", measured=path)

    return pruned


def test_times_of_another_model_are_refused(device):
    def renamed(rows):
        (row,) = [row for row in rows if "/dense-" in row["path"]]
        row["path"] = f"there/dense-{'0' * 24}.tflite"

    with pytest.raises(ValueError, match=r"has not the times of .*, but of a model with other"):
        device(renamed)


def test_times_that_are_missing_are_said(device):
    def without(rows):
        del rows[5:9]
        rows[-1]["median"] = None  # It did not run there.

    with pytest.warns(UserWarning, match=r"has no times of \d+ of \d+ operators") as warned:
        device(without)
    assert {one.filename for one in warned if one.category is UserWarning} == {__file__}


@pytest.mark.parametrize(
    ("row", "median"),
    [
        *itertools.product(["dense-", "empty"], ["0.1", -1.0, float("nan"), float("inf"), None]),
        ("dense-", 0),
        ("other", True),
    ],
)
def test_times_that_are_none_are_refused(tmp_path, row, median):
    names = ["dense-1", "empty", "chain", "other"]
    rows = [{"path": f"{name}.tflite", "median": 1.0} for name in names]
    rows[[name.startswith(row) for name in names].index(True)]["median"] = median
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(ValueError, match=r"has not the times of kprune.search.write_operators"):
        DeviceTimer(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"rows": [{"path": 3}]}'])
def test_files_without_times_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"has not the times of kprune.search.write_operators"):
        DeviceTimer(tmp_path / "a.json")


def test_operators_of_an_earlier_call_are_removed(model, cuts, tmp_path, monkeypatch):
    monkeypatch.setattr("kprune.search.latency.device.Cuts", lambda *_: cuts)
    (tmp_path / f"{'0' * 24}.tflite").write_text("old")
    (tmp_path / "mine.tflite").write_text("mine")
    paths = write_operators(model, "litert-arm64", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in paths} | {"mine.tflite"}


def test_a_folder_that_is_a_file_is_named(model, tmp_path):
    (tmp_path / "operators").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: give the path of a folder"):
        write_operators(model, "litert-arm64", tmp_path / "operators")


class Budget:
    """Whose blocks come out as told."""

    block, whole = 8, 1.0

    def __init__(self, reached):
        self.reached = reached

    def measure(self, kept):
        return self.reached[kept]


@pytest.mark.parametrize(
    ("reached", "chosen"),
    [
        ({8: 0.5}, 8),
        ({8: 0.7, 4: 0.51}, 4),
        ({8: 0.8, 4: 0.56, 2: 0.6, 1: 0.56}, 4),
        ({8: 0.8, 4: 0.7, 2: 0.6, 1: 0.55}, 1),
    ],
)
def test_the_block_that_comes_nearest(reached, chosen):
    assert widest_rounding(Budget(reached), lambda block: block, 0.5) == chosen


BAD = [
    ({"latency": 0.5}, r"measured in the runtime of a `target`"),
    ({"latency": 1.5, "target": "onnxruntime"}, "above 0 and below 1"),
    ({"latency": 0.5, "flops": 0.5, "target": "onnxruntime"}, "Give one of `flops`"),
    ({"flops": 0.5, "target": "onnxruntime"}, "belong to a budget in `latency`"),
    ({"latency": 0.5, "target": "gpu"}, "`target` must be one of"),
    ({"latency": 0.5, "target": "onnxruntime", "threads": 0}, "`threads` must be"),
    ({"latency": 0.5, "target": "onnxruntime", "measured": __file__}, "targets that run .tflite"),
    ({"latency": 0.5, "target": "onnxruntime", "depth": True}, "takes a budget in `flops`"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_refused_before_any_work(model, options, message, monkeypatch):
    monkeypatch.setattr("kprune.structured.prune.ChannelGraph", None)  # Nothing is looked at.
    with pytest.raises(ValueError, match=message):
        kprune.prune_channels(model, **options)


def test_a_latency_model_is_alone(model, latency_of):
    with pytest.raises(TypeError, match=r"must be a kprune.search.LatencyModel"):
        kprune.prune_channels(model, latency=0.5, latency_model="fast")
    latency = latency_of(Clock())
    with pytest.raises(ValueError, match="give no target"):
        kprune.prune_channels(model, latency=0.5, latency_model=latency, target="litert-x86")


def test_a_runtime_that_is_missing(model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"kprune\[export\]"):
        kprune.prune_channels(model, latency=0.5, target="onnxruntime")


def test_a_model_that_cannot_be_exported(monkeypatch):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    model.layers[0].kernel.assign(np.full((4, 8), np.nan))
    with pytest.raises(kprune.export.ExportError):
        kprune.prune_channels(model, latency=0.5, target="onnxruntime")


def test_files_are_written_for_tflite_only(model, tmp_path):
    with pytest.raises(ValueError, match="for ONNX Runtime, prune on the machine"):
        write_operators(model, "onnxruntime", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert-x86", "onnxruntime"])
def test_the_real_runtimes(target):
    """Speed is not looked at, on a machine that may be busy."""
    model = net(32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = kprune.prune_channels(model, latency=0.6, target=target)
    assert small.count_params() < model.count_params()
    assert small(np.zeros((1, 8, 8, 3))).shape == (1, 4)
