"""Plans: made before an optimizer's first step, resolved for what it trains."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.weights import weights_of
from kprune.pruning import plan, selection
from kprune.pruning.groups import Setting
from kprune.pruning.window import Window
from tests.helpers.training import mlp

RUN = SimpleNamespace(now=0, first=0, total=100, last=100, beginnings=[0], repeated=0)
SCHEDULE = kprune.ConstantSparsity(0.5, 10)


def during(model, sparsity=0.9, layers=None, before=None, window=None, run=RUN):
    before, window = before or plan.Before(), window or Window()
    return plan.DuringFit(model, Setting(sparsity=sparsity), layers, window, run, before)


def shown(groups):
    return {weight.layer.name: group.setting for group in groups for weight in group.weights}


def test_a_plan_has_no_groups_but_what_its_optimizer_trains():
    model = mlp()
    own = model.get_layer("second").trainable_variables
    ((name, setting),) = shown(during(model).resolve(own)).items()
    assert name == "second"
    schedule = setting.schedule
    assert (schedule.begin_step, schedule.end_step, schedule.final_sparsity) == (10, 70, 0.9)


def test_a_schedule_of_its_own_goes_before_that_of_the_run():
    model = mlp()
    rules = {"head": SCHEDULE, "second": None}
    settings = shown(during(model, layers=rules).resolve(model.trainable_variables))
    assert settings["head"].schedule is SCHEDULE
    assert settings["first"].schedule.end_step == 70
    assert "second" not in settings


def test_a_model_that_is_built_only_afterwards():
    model = mlp(built=False)
    waiting = during(model)
    model.build((None, 20))
    assert set(shown(waiting.resolve(model.trainable_variables))) == {"first", "second", "head"}


@pytest.mark.parametrize("known", [True, False], ids=["groups", "plan"])
@pytest.mark.parametrize("same_fit", [True, False])
def test_what_was_pruned_before_goes_on(same_fit, known):
    model = mlp()
    earlier = during(model, 0.5, ["first", "second"])
    pruned = earlier.resolve(model.trainable_variables) if known else earlier
    both = during(model, 0.9, "second", plan.Before(pruned, same_fit))
    settings = shown(both.resolve(model.trainable_variables))
    assert settings["second"].sparsity == 0.9
    assert settings["first"].asks == same_fit
    assert settings["first"].sparsity == (0.5 if same_fit else None)


def test_what_is_zero_is_held_beside_what_is_pruned():
    model = mlp()
    kernel = np.ones((33, 17), "float32")
    kernel[0] = 0
    model.get_layer("second").kernel.assign(kernel)
    before = plan.Before(during(model, 0.5, "first"), same_fit=True)
    settings = shown(plan.Holding(model, before).resolve(model.trainable_variables))
    assert set(settings) == {"first", "second"}
    assert settings["first"].asks
    assert not settings["second"].asks


def test_given_groups_must_be_trained():
    model = mlp()
    groups = selection.group(weights_of(model), Setting(SCHEDULE))
    assert plan.Given(groups).resolve(model.trainable_variables) is groups
    with pytest.raises(ValueError, match="not among the variables"):
        plan.Given(groups).resolve(model.get_layer("first").trainable_variables)


def test_without_a_model_names_decide():
    layer = layers.Dense(3)
    layer.build((None, 4))
    (group,) = plan.ByName(Setting(SCHEDULE)).resolve(layer.trainable_variables)
    assert [weight.variable for weight in group.weights] == [layer.kernel]


def test_a_run_that_turns_out_longer_has_later_schedules():
    model = mlp()
    found = during(model, layers={"head": SCHEDULE, "*": 0.9}).resolve(model.trainable_variables)
    longer = SimpleNamespace(**vars(RUN) | {"now": 5, "total": 200, "last": 200})
    settings = shown(Window().again(found, longer))
    assert settings["head"].schedule is SCHEDULE
    assert settings["first"].schedule.end_step == 140
    assert settings["first"].sparsity == 0.9


def test_the_optimizer_lets_its_plan_go():
    model = mlp()
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE, model=model)
    assert optimizer.plan is not None
    optimizer.build(model.trainable_variables)
    assert optimizer.plan is None
    assert len(optimizer.groups) == 1
    assert all(ops.convert_to_numpy(mask.value).all() for mask in optimizer.masks().values())
