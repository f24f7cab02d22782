"""Optuna's trials: one study, on disk, that several processes may work on."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from kprune.search import optimize
from kprune.search.goal import make_goal
from kprune.search.journal import Journal
from kprune.search.optuna_search import Space, Trials
from kprune.search.points import Point

pytest.importorskip("optuna")

SCRIPT = textwrap.dedent(
    """
    import sys
    import keras, numpy as np
    from kprune.search import optimize

    x = np.random.default_rng(0).normal(size=(120, 16)).astype("float32")
    y = (x[:, :4].argmax(-1)).astype("int32")
    model = keras.models.load_model(sys.argv[1])
    result = optimize(
        model, "onnxruntime", data=(x, y), max_drop=0.5, out=sys.argv[2], search="optuna",
        trials=int(sys.argv[3]), verbose=False,
    )
    print(sorted(point.number for point in result.points))
    """
)


@pytest.fixture
def trained(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(400, 16)).astype("float32")
    layers = keras.layers
    stack = [keras.Input((16,)), layers.Dense(32, "relu"), layers.Dense(32, "relu")]
    model = keras.Sequential([*stack, layers.Dense(4, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, x[:, :4].argmax(-1), epochs=10, verbose=0)
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def start(trained, out, trials):
    command = [sys.executable, "-c", SCRIPT, str(trained), str(out), str(trials)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_share_the_trials_and_a_third_call_goes_on(trained, tmp_path):
    out = tmp_path / "out"
    both = [start(trained, out, 4) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    third = start(trained, out, 6)
    output, errors = third.communicate(timeout=300)
    assert third.returncode == 0, errors
    numbers = eval(output)  # The dense one and the trials, each with a number of its own.
    assert numbers[0] == 0
    assert len(set(numbers)) == len(numbers) >= 7
    assert all((out / f"round-{n:02d}.onnx").is_file() for n in numbers[1:])


@pytest.mark.slow
def test_each_layer_has_its_own_width(trained, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 16)).astype("float32")
    result = optimize(
        trained, "onnxruntime", data=x, max_drop=1.0, out=tmp_path / "out", search="optuna",
        trials=3, verbose=False,
    )  # fmt: skip
    assert [point.number for point in result.points] == [0, 1, 2, 3]
    for point in result.points[1:]:
        model = keras.models.load_model(point.model)
        widths = [layer.units for layer in model.layers[:-1]]
        for width, share in zip(widths, point.step.widths.values(), strict=True):
            assert width % 8 == 0
            assert abs(width - 32 * share) <= 4.01 or width == 8
    assert len({tuple(p.step.widths.values()) for p in result.points[1:]}) == 3


def test_searches_of_two_models_share_a_storage_and_no_study(tmp_path):
    goal, storage = make_goal(0.1, False, None, None, "max"), f"sqlite:///{tmp_path}/study.db"
    space = Space([], ["a"], (None,), False)
    for model in ("one", "another"):
        journal = Journal(tmp_path / model / "optimized", {"model": model})
        trials = Trials(space, goal, journal, storage, 1, 0)
        number, step, tell = next(iter(trials))
        assert number == 1
        tell(Point(number, step, metric=0.9, drop=0.0, file="f"))
        assert [point.step for point in trials.points] == [step]


def test_bad_arguments(tmp_path):
    trained = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])
    arguments = {"data": np.zeros((4, 16), "float32"), "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="`search` is None or 'optuna'"):
        optimize(trained, "onnxruntime", search="grid", **arguments)
    with pytest.raises(ValueError, match="search='optuna'"):
        optimize(trained, "onnxruntime", storage="sqlite:///a.db", **arguments)
    with pytest.raises(ValueError, match="`trials`"):
        optimize(trained, "onnxruntime", search="optuna", trials=0, **arguments)
