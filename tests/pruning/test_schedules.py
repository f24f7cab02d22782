import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import kprune
from kprune.pruning.schedules import check_schedule, check_sparsity
from tests.helpers import reference

FAST = settings(max_examples=50)


@st.composite
def polynomials(draw):
    begin = draw(st.integers(0, 50))
    return {
        "initial_sparsity": draw(st.floats(0, 0.99)),
        "final_sparsity": draw(st.floats(0, 0.99)),
        "begin_step": begin,
        "end_step": begin + draw(st.integers(1, 100)),
        "power": draw(st.sampled_from([1, 2, 3, 0.5])),
        "frequency": draw(st.integers(1, 30)),
    }


@FAST
@given(arguments=polynomials())
def test_polynomial_ends_on_its_end(arguments):
    schedule = kprune.PolynomialDecay(**arguments)
    update, sparsity = schedule(arguments["end_step"])
    assert update
    assert sparsity == arguments["final_sparsity"]
    assert schedule(arguments["begin_step"]) == (True, pytest.approx(schedule.initial_sparsity))
    assert not schedule(arguments["end_step"] + 1)[0]
    assert arguments["begin_step"] == 0 or not schedule(arguments["begin_step"] - 1)[0]


@FAST
@given(arguments=polynomials(), step=st.integers(0, 200))
def test_traced_equals_python(arguments, step):
    schedule = kprune.PolynomialDecay(**arguments)
    update, sparsity = schedule(step)
    traced_update, traced_sparsity = schedule(ops.convert_to_tensor(step, "int32"))
    assert bool(traced_update) == update
    np.testing.assert_allclose(float(traced_sparsity), sparsity, atol=2e-6)


@FAST
@given(arguments=polynomials(), step=st.integers(0, 200))
def test_last_update_is_the_last(arguments, step):
    for schedule in (
        kprune.PolynomialDecay(**arguments),
        kprune.ConstantSparsity(0.5, arguments["begin_step"], -1, arguments["frequency"]),
    ):
        scan = [earlier for earlier in range(step + 1) if schedule(earlier)[0]]
        assert schedule.last_update(step) == (scan[-1] if scan else None)


@pytest.mark.fast_for("100")
@pytest.mark.parametrize("frequency", [1, 7, 100])
def test_same_values_as_tfmot_at_every_step(frequency):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TFMOT needs TensorFlow")
    tfmot = reference.tfmot().sparsity.keras
    import tensorflow as tf

    steps = tf.range(400)

    def values(schedule):
        signature = (tf.bool, tf.float32)
        return tf.function(lambda: tf.map_fn(schedule, steps, fn_output_signature=signature))()

    for ours, theirs in (
        (
            kprune.PolynomialDecay(0.1, 0.83, 10, 310, power=3, frequency=frequency),
            tfmot.PolynomialDecay(0.1, 0.83, 10, 310, power=3, frequency=frequency),
        ),
        (
            kprune.ConstantSparsity(0.7, 5, 250, frequency),
            tfmot.ConstantSparsity(0.7, 5, 250, frequency),
        ),
    ):
        found = [values(schedule) for schedule in (theirs, ours)]
        np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)
        update = found[0][0].numpy()
        # The one difference: ours always updates on the last step.
        update[ours.end_step] = True
        np.testing.assert_array_equal(found[1][0], update)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (1.0, "none"),
        (-0.1, "Received: final_sparsity=-0.1"),
        (90, r"percentage.*pass 0.9"),
        (float("nan"), "number"),
        ("0.9", "number"),
        (True, "number"),
    ],
)
def test_bad_sparsity(bad, message):
    with pytest.raises(ValueError, match=message):
        kprune.PolynomialDecay(0.0, bad, 0, 10)
    with pytest.raises(ValueError):
        kprune.ConstantSparsity(bad, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"begin_step": 20}, "begin_step=20, end_step=10"),
        ({"end_step": -1}, "ConstantSparsity only"),
        ({"begin_step": -1}, "at least 0"),
        ({"frequency": 0}, "at least 1"),
        ({"begin_step": 0.5}, "integer"),
        ({"power": 0}, "power"),
    ],
)
def test_bad_steps(change, message):
    arguments = {"initial_sparsity": 0.0, "final_sparsity": 0.5, "begin_step": 0, "end_step": 10}
    with pytest.raises(ValueError, match=message):
        kprune.PolynomialDecay(**(arguments | change))


def test_wrong_kind_of_schedule():
    with pytest.raises(TypeError, match="learning-rate"):
        check_schedule(keras.optimizers.schedules.CosineDecay(0.1, 10))
    with pytest.raises(TypeError, match=r"Received: 0.5"):
        check_schedule(0.5)
    assert check_sparsity(0) == 0.0


def test_config_round_trip():
    for schedule in (
        kprune.PolynomialDecay(0.1, 0.9, 3, 30, 2, 7),
        kprune.ConstantSparsity(0.5, 4),
    ):
        config = keras.saving.serialize_keras_object(schedule)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == schedule.get_config()
        assert type(again) is type(schedule)


class OfTfmot(kprune.PruningSchedule):
    """As one writes them for TFMOT."""

    def __init__(self, target, begin_step, end_step=-1, frequency=3):
        self.target, self.begin_step = target, begin_step
        self.end_step, self.frequency = end_step, frequency
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(target, "target")

    def __call__(self, step):
        update = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return update, ops.convert_to_tensor(self.target, "float32")

    def get_config(self):
        names = ("target", "begin_step", "end_step", "frequency")
        config = {name: getattr(self, name) for name in names}
        return {"class_name": self.__class__.__name__, "config": config}


def test_schedules_written_for_tfmot():
    schedule = OfTfmot(0.5, 2, 10)
    assert [step for step in range(14) if schedule(step)[0]] == [2, 5, 8]
    assert [step for step in range(14) if schedule(ops.convert_to_tensor(step))[0]] == [2, 5, 8]
    assert [step for step in range(10) if OfTfmot(0.5, 2)(step)[0]] == [2, 5, 8]
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config, custom_objects={"OfTfmot": OfTfmot})
    assert vars(again) == vars(schedule)
    assert repr(again) == "OfTfmot(target=0.5, begin_step=2, end_step=10, frequency=3)"
    for bad in [(1.0, 0), (0.5, -1), (0.5, 3, 2), (0.5, 0, -2), (0.5, 0, 9, 0)]:
        with pytest.raises(ValueError, match="Received"):
            OfTfmot(*bad)
    with pytest.raises(ValueError, match="end_step"):
        schedule._validate_step(0, -1, 1, False)


def test_a_model_with_a_schedule_written_for_tfmot_is_pruned_and_reloads(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model = kprune.prune_low_magnitude(model, OfTfmot(0.5, 0))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6)), np.ones((8, 4)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"OfTfmot": OfTfmot})
    assert vars(loaded.layers[0].pruning_schedule) == vars(OfTfmot(0.5, 0))
    kernel = ops.convert_to_numpy(kprune.strip_pruning(loaded).layers[0].kernel.value)
    assert (kernel == 0).sum() == 12


@pytest.mark.parametrize("form", ["flat", "of_tfmot"])
def test_configurations_of_both_forms_are_read(form):
    schedule = kprune.PolynomialDecay(0.1, 0.6, 10, 20, 5, 10)
    config = schedule.get_config()
    assert set(config) == {"class_name", "config"}
    again = kprune.PolynomialDecay.from_config(config if form == "of_tfmot" else config["config"])
    assert vars(again) == vars(schedule)
