"""The plan, in worlds where what a step does to metric, speed and size is a known function."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune.search.goal import Goal, make_goal
from kprune.search.plan import Ways, plan
from kprune.search.points import Point, Step

EVERYTHING = Ways(
    sparse=True, mostly_sparse=True, prepared=True, channels=True, by_latency=True, depth=True,
    quantize=("int8", "dynamic"), trains=True, clusters=True,
)  # fmt: skip


@dataclasses.dataclass
class World:
    """Accuracy falls the more steeply, the less is left; time and size follow what is left."""

    zeros_hurt: float = 0.001
    channels_hurt: float = 0.005
    rounding_hurts: float = 0.0
    int8_speed: float = 1.5
    int8_rest: float = 0.0
    aware_hurts: float = 0.0
    dynamic_speed: float | None = None
    zeros_speed: float | None = None
    impossible: tuple = ()

    def point(self, number, step):
        if step.quantize in self.impossible:
            return Point(number, step, reason="no such file")
        density = 1 - step.sparsity
        speed = 1 / (step.channels * (0.1 + 0.9 * min(1, 3 * density)))
        size = step.channels * density
        drop = self.zeros_hurt * (1 / density - 1) + self.channels_hurt * (1 / step.channels - 1)
        if step.sparsity and self.zeros_speed:
            speed = self.zeros_speed
        if step.quantize == "dynamic" and self.dynamic_speed:
            speed, size = speed * self.dynamic_speed, size / 4
        elif step.quantize:
            speed, size = speed * self.int8_speed, size / 4 + self.int8_rest
            drop += self.aware_hurts if step.aware else self.rounding_hurts
        return Point(
            number, step, metric=0.9 - drop, drop=drop, speedup=speed, size_share=size,
            file=f"{number}", model=f"{number}",
        )  # fmt: skip

    def search(self, goal, ways, most=60):
        """All points, the dense one first."""
        points = [self.point(0, Step(parent=0))]
        steps, answer = plan(goal, ways, points[0], most), None
        try:
            while len(points) <= most:
                step = next(steps) if answer is None else steps.send(answer)
                answer = self.point(len(points), step)
                assert points[step.parent].file is not None
                points.append(answer)
        except StopIteration:
            return points
        if most < 60:
            return points
        raise AssertionError(f"{most} rounds, and no end")


worlds = st.builds(
    World,
    zeros_hurt=st.floats(1e-6, 0.1),
    channels_hurt=st.floats(1e-6, 0.1),
    rounding_hurts=st.sampled_from([0.0, 0.004, 0.1]),
    int8_speed=st.sampled_from([0.5, 1.0, 1.5, 4.0]),
    impossible=st.sampled_from([(), ("int8",), ("int8", "dynamic")]),
)
some_ways = st.builds(
    Ways,
    sparse=st.booleans(), mostly_sparse=st.booleans(), prepared=st.booleans(),
    channels=st.booleans(), by_latency=st.booleans(), depth=st.booleans(),
    quantize=st.sampled_from([(), ("dynamic",), ("int8", "dynamic")]),
    trains=st.booleans(), clusters=st.booleans(),
)  # fmt: skip
goals = st.one_of(
    st.builds(lambda d: make_goal(d, False, None, None, "max"), st.floats(0, 0.1)),
    st.builds(lambda s: make_goal(None, False, s, None, "max"), st.floats(0.05, 0.95)),
    st.builds(lambda s: make_goal(0.02, False, None, s, "max"), st.floats(0.02, 0.95)),
)


@given(worlds, some_ways, goals)
def test_every_plan_ends_and_recommends_what_holds(world, ways, goal):
    points = world.search(goal, ways)
    best = goal.best(points)
    assert best.drop is not None
    if any(goal.met(point) for point in points):
        assert goal.met(best)
    steps = [point.step for point in points]
    assert len(set(map(str, map(dataclasses.asdict, steps)))) == len(steps)  # None twice.
    for point in points[1:]:
        assert 0 <= point.step.sparsity < 1
        assert 0 < point.step.channels <= 1
        assert ways.sparse or goal.size is not None or not point.step.sparsity
        assert ways.channels or point.step.channels == 1


@given(worlds, st.floats(0.002, 0.1))
def test_a_climb_ends_close_to_the_last_that_holds(world, most):
    goal = make_goal(most, False, None, None, "max")
    ways = dataclasses.replace(EVERYTHING, channels=False, quantize=())
    best = goal.best(world.search(goal, ways))
    # The density at which the drop is all that is allowed.
    edge = 1 / (1 + most / world.zeros_hurt)
    if edge > 0.3:
        assert best.number == 0  # With so few zeros no kernel is faster.
    elif 0.01 < edge < 0.25:
        assert edge <= 1 - best.step.sparsity <= 1.2 * edge or best.speedup > 9 / 1.03**2


@given(st.floats(0.1, 0.9))
def test_a_latency_is_approached_by_channels(budget):
    goal = make_goal(None, False, budget, None, "max")
    ways = dataclasses.replace(EVERYTHING, sparse=False, quantize=())
    points = World().search(goal, ways)
    best = goal.best(points)
    assert goal.met(best)
    assert 0.9 * budget <= goal.share(best) <= budget
    assert len(points) <= 4


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.2, 0.6])
def test_a_size_is_reached_with_8_bits_first(budget):
    goal = make_goal(None, False, None, budget, "max")
    points = World().search(goal, EVERYTHING)
    assert points[1].step.quantize == "int8"
    assert goal.met(goal.best(points))
    assert (len(points) == 2) == (budget > 0.25)
    assert all(point.step.channels == 1 for point in points)


def test_codes_in_a_file_that_is_large_without_them_are_not_pursued():
    """As an LSTM's in 8 bits, whose steps stand in the file one after the other."""
    goal = make_goal(None, False, None, 0.15, "max")
    points = World(int8_rest=0.4).search(goal, EVERYTHING)
    best = goal.best(points)
    assert goal.met(best)
    assert best.step.quantize is None
    assert best.step.sparsity == pytest.approx(0.86, abs=0.02)
    assert len(points) <= 5


def test_rounding_is_trained_for_only_where_it_costs_too_much():
    goal = make_goal(0.01, False, None, None, "max")
    trained = [p for p in World(rounding_hurts=0.1).search(goal, EVERYTHING) if p.step.aware]
    assert trained
    assert not [p for p in World(rounding_hurts=0.0).search(goal, EVERYTHING) if p.step.aware]


@pytest.mark.parametrize("rounds", [3, 4, 5, 6])
def test_the_last_round_is_for_8_bits(rounds):
    goal = make_goal(0.1, False, None, None, "max")
    ways = dataclasses.replace(EVERYTHING, sparse=False)
    points = World(channels_hurt=1e-6).search(goal, ways, rounds)[: rounds + 1]
    best = goal.best(points)
    assert best.step.quantize == "int8"
    assert best.step.channels < 1


def test_what_is_no_faster_in_8_bits_is_not_pursued():
    goal = make_goal(0.01, False, None, None, "max")
    points = World(int8_speed=0.9).search(goal, EVERYTHING)
    assert [p.number for p in points if p.step.quantize] == [1, 2]  # Each of the two kinds.


@pytest.mark.parametrize(
    "world", [{"int8_speed": 0.8}, {"rounding_hurts": 0.5, "aware_hurts": 0.5}]
)
def test_the_second_kind_of_8_bits_is_tried_where_the_first_does_not_do(world):
    goal = make_goal(0.01, False, None, None, "max")
    ways = dataclasses.replace(EVERYTHING, sparse=False, channels=False)
    points = World(**world, dynamic_speed=1.8).search(goal, ways)
    assert goal.best(points).step.quantize == "dynamic"


def test_zeros_that_make_it_slower_are_given_up_at_once():
    """Less of them would be no faster, so that a round that loses too much is no reason to try."""
    goal = make_goal(0.01, False, None, None, "max")
    ways = dataclasses.replace(EVERYTHING, channels=False, quantize=())
    assert len(World(zeros_hurt=1.0, zeros_speed=0.8).search(goal, ways)) == 2


def test_zeros_are_trained_for_rounding_where_the_dense_model_had_to_be():
    goal = make_goal(0.02, False, None, 0.15, "max")
    points = World(rounding_hurts=0.3).search(goal, EVERYTHING)
    assert goal.met(goal.best(points))
    assert all(p.step.aware for p in points[1:] if p.step.sparsity and p.step.quantize)


def test_what_is_faster_by_no_more_than_noise_is_not_recommended():
    dense = Point(0, Step(0), metric=0.9, drop=0.0, file="d")
    noise = Point(1, Step(0), metric=0.891, drop=0.009, speedup=1.02, file="n")
    assert make_goal(0.01, False, None, None, "max").best([dense, noise]) is dense


def test_the_stride_follows_what_was_lost():
    """Where little is lost the search goes further at once than where much is."""
    goal = make_goal(0.05, False, None, None, "max")
    ways = dataclasses.replace(EVERYTHING, sparse=False, quantize=())
    easy = World(channels_hurt=1e-6).search(goal, ways)
    hard = World(channels_hurt=0.06).search(goal, ways)
    assert easy[2].step.channels / easy[1].step.channels < 0.6
    assert hard[2].step.channels > hard[1].step.channels * 0.6


def test_goals():
    dense = Point(0, Step(0), metric=0.9, drop=0.0, file="d")
    worse = Point(1, Step(0), metric=0.885, drop=0.015, speedup=3.0, file="w")
    failed = Point(2, Step(0), reason="none")
    tight, loose = (make_goal(d, False, None, None, "max") for d in (0.01, 0.02))
    assert tight.best([dense, worse, failed]) is dense
    assert loose.best([dense, worse, failed]) is worse
    assert not loose.holds(failed)
    in_time = make_goal(None, False, 0.3, None, "max")
    assert in_time.best([dense, worse]) is worse
    assert not in_time.met(worse)
    assert Goal(mode="min").drop(0.5, 0.4) == pytest.approx(0.1)
    assert Goal(relative=True).drop(0.81, 0.9) == pytest.approx(0.1)
    assert Goal(mode="min", relative=True).drop(-1.0, -2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0.01, False, 0.5, 0.5, "max"), "one budget"),
        ((0.01, False, 1.0, None, "max"), "latency"),
        ((0.01, False, None, 0, "max"), "size"),
        ((0.01, False, None, True, "max"), "size"),
        ((-0.1, False, None, None, "max"), "max_drop"),
        ((math.nan, False, None, None, "max"), "max_drop"),
        (("1%", False, None, None, "max"), "max_drop"),
        ((None, False, None, None, "up"), "mode"),
    ],
)
def test_bad_goals(arguments, match):
    with pytest.raises(ValueError, match=match):
        make_goal(*arguments)
