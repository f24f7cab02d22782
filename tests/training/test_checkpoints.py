"""How masks are taken up again from weights, and what files have in a wrapper's place."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.weights import weights_of
from kprune.pruning.groups import Group, Setting
from kprune.training.checkpoints import SavedAsWrapped, masks_of, without
from tests.helpers.training import compiled, mlp

SCHEDULE = kprune.PolynomialDecay(0.5, 0.75, begin_step=10, end_step=20, frequency=5)


def group_with(zeros, schedule=SCHEDULE):
    """A `Group` of one kernel of 8 x 4, so many of whose first entries are zero."""
    layer = layers.Dense(4)
    layer.build((None, 8))
    value = np.arange(1, 33, dtype="float32")
    value[:zeros] = 0
    layer.kernel.assign(value.reshape(8, 4))
    return Group(Setting(schedule), (weights_of(layer)[0],))


def zeros_in(masks):
    (mask,) = masks
    return np.flatnonzero(~ops.convert_to_numpy(mask)).tolist()


@pytest.mark.parametrize(
    ("zeros", "step", "expected"),
    [
        (3, 5, 3),  # The schedule has not begun: what is zero stays so.
        (32, 5, 0),  # But a weight that is zero as a whole is free.
        (16, 12, 16),
        (24, 20, 24),
        (0, 12, 16),  # A dense model: what the schedule asks for by now.
        (3, 20, 24),
        (0, 0, 0),  # Before the first step.
    ],
)
def test_masks_are_those_of_the_zeros_or_of_the_schedule(zeros, step, expected):
    assert zeros_in(masks_of(group_with(zeros), step)) == list(range(expected))


def test_what_is_held_stays():
    assert zeros_in(masks_of(group_with(5, schedule=None), 100)) == list(range(5))


class Wrapper(SavedAsWrapped, keras.optimizers.Optimizer):
    wrapped_name = "inside"
    unsaved = ("other",)

    def __init__(self, inside):
        super().__init__(learning_rate=0.0)
        self.inside, self.other = inside, keras.optimizers.SGD()


def test_files_have_the_wrapped_optimizer_in_the_place_of_the_wrapper():
    inside = keras.optimizers.Adam()
    inside.build(mlp().trainable_variables)
    wrapper, plain, wrapped = Wrapper(inside), {}, {}
    inside.save_own_variables(plain)
    wrapper.save_own_variables(wrapped)
    assert plain.keys() == wrapped.keys()
    assert len(plain) > 2
    assert not {"inside", "other"} & set(dir(wrapper))
    assert "beta_1" in dir(wrapper)


@pytest.mark.parametrize("fails", [False, True])
def test_a_scope_in_which_compile_s_optimizer_is_the_wrapped_one(fails):
    model, inside = compiled(mlp()), keras.optimizers.Adam()
    model.optimizer = wrapper = Wrapper(inside)
    try:
        with without(Wrapper)(model):
            assert model.optimizer is inside
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert model.optimizer is wrapper
