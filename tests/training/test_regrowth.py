"""Weights that come back: as many as go, those of the largest gradients, with nothing left over."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import kprune
from kprune.pruning import LAMP, SET, RigL
from tests.helpers.training import apply_step, compiled, data, kernels, mlp, zeros

SCHEDULE = kprune.ConstantSparsity(0.5, begin_step=0, end_step=30, frequency=10)


def _numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def test_the_lowest_are_exchanged_for_those_of_the_largest_gradients():
    value = np.array([[8.0, -7.0, 6.0, 0.5], [0.1, 5.0, 0.2, 0.3]], "float32")
    gradient = np.array([[0.1, 0.1, 0.1, 3.0], [0.0, 0.1, -5.0, 1.0]], "float32")
    kernel = keras.Variable(value, name="kernel")
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(0.0), SCHEDULE, regrowth=RigL(0.5))
    apply_step(optimizer, [gradient], [kernel])
    # Of 4 that stay, the cosine leaves 2 to be exchanged: of 5 and 6 for those of 5.0 and 3.0.
    (mask,) = optimizer.masks().values()
    np.testing.assert_array_equal(_numpy(mask), [[1, 1, 0, 1], [0, 0, 1, 0]])
    for _ in range(9):
        apply_step(optimizer, [gradient], [kernel])
    assert np.count_nonzero(_numpy(kernel)) == 4


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(0.1), lambda: keras.optimizers.SGD(0.1, momentum=0.9)],
    ids=["Adam", "SGD"],
)
def test_what_comes_back_begins_anew(optimizer):
    """At zero, with moments of zero, whatever they were."""
    random = np.random.default_rng(0)
    kernel = keras.Variable(random.normal(size=(6, 5)).astype("float32"), name="kernel")
    optimizer = kprune.PruningOptimizer(optimizer(), SCHEDULE, regrowth=RigL(0.9))
    before, seen = np.ones((6, 5), bool), 0
    for step in range(1, 31):
        apply_step(optimizer, [random.normal(size=(6, 5)).astype("float32")], [kernel])
        (mask,) = map(_numpy, optimizer.masks().values())
        slots = [v for v in optimizer.base_optimizer.variables if tuple(v.shape) == (6, 5)]
        assert slots
        assert all((_numpy(slot)[~mask] == 0).all() for slot in slots)
        back = mask & ~before
        if step > 1 and back.any():
            assert step in (10, 20)
            assert (_numpy(kernel)[back] == 0).all()
            assert all((_numpy(slot)[back] == 0).all() for slot in slots)
            seen += back.sum()
        assert mask.sum() == 15
        before = mask
    assert seen


@pytest.mark.fast_for("constant-allocation0", "rising-allocation2")
@pytest.mark.parametrize("allocation", [kprune.Uniform(), kprune.ErdosRenyiKernel(), LAMP()])
@pytest.mark.parametrize(
    "schedule",
    [
        kprune.ConstantSparsity(0.8, begin_step=0, end_step=20, frequency=4),
        kprune.PolynomialDecay(0.2, 0.8, begin_step=2, end_step=20, frequency=3),
    ],
    ids=["constant", "rising"],
)
def test_in_fit_the_total_is_what_was_asked(schedule, allocation):
    model, (x, y) = compiled(mlp()), data()
    masks = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append(np.concatenate([_numpy(m).ravel() for m in _masks(self.model)]))

    pruning = kprune.Pruning(schedule=schedule, regrowth=RigL(), allocation=allocation)
    model.fit(x, y, batch_size=16, epochs=8, verbose=0, callbacks=[pruning, Watch()])
    back = [(later & ~earlier).sum() for earlier, later in itertools.pairwise(masks)]
    assert sum(back) > 0
    assert not sum(back[22:])  # After the schedule's end masks stay.
    total = sum(value.size for value in kernels(model).values())
    assert abs(sum(zeros(model).values()) - 0.8 * total) <= 2


def _masks(model):
    """The masks, where the backend has them in the optimizer while it trains."""
    if keras.backend.backend() == "jax":
        return [value != 0 for value in kernels(model).values()]
    return list(model.optimizer.masks().values())


def test_saved_and_made_again():
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(), SCHEDULE, regrowth=RigL(0.2))
    again = kprune.PruningOptimizer.from_config(optimizer.get_config())
    assert again.regrowth.get_config() == {"fraction": 0.2}
    assert "regrowth" not in kprune.PruningOptimizer(keras.optimizers.SGD(), SCHEDULE).get_config()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pattern": kprune.NM(2, 4)}, TypeError, "single weights and blocks"),
        ({"pattern": kprune.Channels()}, TypeError, "single weights and blocks"),
        ({"regrowth": "rigl"}, TypeError, "must be a kprune regrowth"),
    ],
)
def test_what_cannot_grow_again(options, error, message):
    with pytest.raises(error, match=message):
        kprune.Pruning(0.5, **{"regrowth": RigL(), **options})


def test_a_schedule_without_end():
    with pytest.raises(ValueError, match="schedule that ends"):
        kprune.Pruning(schedule=kprune.ConstantSparsity(0.5, 0), regrowth=RigL())
    for bad in (0, 1, "0.3"):
        with pytest.raises(ValueError, match="between 0 and 1"):
            RigL(bad)


def test_within_loss_scaling():
    """Of an optimizer within another one, the inner one's moments."""
    inner = keras.optimizers.Adam(0.1)
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(4, 4)), name="kernel")
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0), SCHEDULE, regrowth=RigL()
    )
    for _ in range(3):
        apply_step(optimizer, [np.ones((4, 4), "float32")], [kernel])
    (mask,) = map(_numpy, optimizer.masks().values())
    slots = [v for v in inner.variables if tuple(v.shape) == (4, 4)]
    assert len(slots) == 2
    assert all((_numpy(slot)[~mask] == 0).all() for slot in slots)
    assert all((_numpy(slot)[mask] != 0).all() for slot in slots)


def test_what_comes_at_random():
    """Another choice at each step and of each seed, of everything alike, the total as asked."""
    weight = ops.zeros((40, 50))
    draws = [
        _numpy(SET(seed=seed).scores(weight, None, step)) for seed in (0, 1) for step in (1, 2)
    ]
    for draw in draws:
        assert draw.min() >= 0
        assert np.quantile(draw, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)
        assert len(np.unique(draw)) > 1990
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    neighbours = draws[0].ravel()
    assert abs(np.corrcoef(neighbours[1:], neighbours[:-1])[0, 1]) < 0.1
    np.testing.assert_array_equal(draws[0], _numpy(SET().scores(weight, None, 1)))


def test_random_regrowth_in_fit():
    model, (x, y) = compiled(mlp()), data()
    first = kernels(model)
    schedule = kprune.ConstantSparsity(0.8, begin_step=0, end_step=40, frequency=4)
    pruning = kprune.Pruning(schedule=schedule, regrowth=SET(0.5))
    model.fit(x, y, epochs=4, batch_size=16, verbose=0, callbacks=[pruning])
    for (name, value), mask in zip(first.items(), model.optimizer.masks().values(), strict=True):
        mask = _numpy(mask)
        assert (~mask).sum() == round(0.8 * value.size)
        largest = np.abs(value) >= np.sort(np.abs(value).ravel())[-mask.sum()]
        assert (mask & ~largest).sum() > 0.1 * mask.sum(), name
