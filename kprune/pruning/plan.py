"""What an optimizer is to prune: which weights, with which setting, by which schedule.

Some optimizers learn only in their first step which variables they train: one of several in a
model, as of a GAN, or that of a model which is not built yet. So a plan is made of what is known
before it, and resolved to `Group`s when the variables are known, which the optimizer then keeps.
The plan, which knows the model, is let go.
"""

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

from kprune._keras import backend
from kprune.graphs.weights import check_model, count_zeros, variable_weights, weights_of
from kprune.pruning import selection
from kprune.pruning.groups import Group, Setting, check_finite
from kprune.pruning.window import Window, expected

# What is zero stays so, whatever made it zero.
HELD = Setting()
# By less a schedule may begin below the share that is zero already.
_SAME_SPARSITY = 1e-3


class PruningPlan(abc.ABC):
    """What an optimizer is to prune, before it is known what it trains."""

    @abc.abstractmethod
    def resolve(self, variables):
        """Return the `Group`s of weights that are pruned or held, each with its schedule.

        Args:
            variables: list of the variables that the optimizer trains.

        Raises:
            ValueError: there is nothing to prune, or not in the way that was asked.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class ByName(PruningPlan):
    """Every variable that is prunable by its name, with one setting."""

    setting: Setting

    def resolve(self, variables):
        return selection.group(variable_weights(variables), self.setting)


@dataclasses.dataclass(frozen=True, eq=False)
class Given(PruningPlan):
    """These groups, all of whose weights must be trained."""

    groups: list[Group]

    def resolve(self, variables):
        known = {id(variable) for variable in variables}
        for weight in (weight for group in self.groups for weight in group.weights):
            if id(weight.variable) not in known:
                raise ValueError(
                    f"{weight.name} is to be pruned, but is not among the variables that "
                    "this optimizer trains. Leave it out with `layers`."
                )
        return self.groups


@dataclasses.dataclass(frozen=True, eq=False)
class Before:
    """What an optimizer was to prune so far.

    Attributes:
        pruned: its `Group`s; or its `PruningPlan`, if it does not know its variables yet.
        same_fit: whether another callback of the same `fit` asked for them, which then keep
            their schedules; else what is zero stays zero.
    """

    pruned: Any = ()
    same_fit: bool = False

    def carried(self, groups, variables):
        """Return the `Group`s that go on beside the new ones: what those don't name."""
        pruned = self.pruned
        if isinstance(pruned, PruningPlan):
            pruned = pruned.resolve(variables)
        return _carried(pruned, groups, self.same_fit)


@dataclasses.dataclass(frozen=True, eq=False)
class DuringFit(PruningPlan):
    """The layers of a model, to their sparsities within the run of a `fit`.

    Attributes:
        model: the `keras.Model`.
        default: the `Setting` of what `layers` does not say otherwise.
        layers: as in `kprune.Pruning`.
        window: the `Window` of schedules that follow from the run.
        run: the `training.run.Run`.
        before: what the optimizer was to prune so far.
        check: function that raises for a model which is not to be pruned so.
    """

    model: Any
    default: Setting
    layers: Any
    window: Window
    run: Any
    before: Before
    check: Callable = check_model

    def resolve(self, variables):
        self.check(self.model)
        groups = selection.group(weights_of(self.model), self.default, self.layers, self.model)
        groups = [own for group in groups if (own := group.only(variables)) is not None]
        if backend.is_concrete():
            check_finite([weight for group in groups for weight in group.weights])
        groups = [
            group.by(group.setting.schedule or self.window.schedule(group, self.run))
            for group in groups
        ]
        for group in groups:
            _warn_if_zeros_go(group, self.run)
        schedules = {id(group.setting.schedule): group.setting.schedule for group in groups}
        _warn_if_cut_short(schedules.values(), self.run)
        return _check_alone(groups + self.before.carried(groups, variables))


@dataclasses.dataclass(frozen=True, eq=False)
class Holding(PruningPlan):
    """What is zero in a model, which stays so; and what was pruned before."""

    model: Any
    before: Before

    def resolve(self, variables):
        check_model(self.model)
        kept = self.before.carried((), variables)
        groups = kept + _zero_groups(self.model, variables, besides=kept)
        if not groups:
            warnings.warn(
                f"HoldZeros: no weight of {self.model.name!r} that is trained has zeros to hold.",
                stacklevel=2,
            )
        return groups


def _zero_groups(model, variables, besides):
    """Return `Group`s that hold what is zero in a model: in its kernels, and the rest.

    The rest are the biases and scales of channels that were pruned.

    Args:
        model: a `keras.Model`.
        variables: the variables that are trained, a list.
        besides: the `Group`s whose weights are left to them.
    """
    if not backend.is_concrete():
        return []  # They are made in the step that is traced, and nobody has set zeros in them.
    known = {id(variable) for variable in variables}
    known -= {id(weight.variable) for group in besides for weight in group.weights}
    found = [
        weight
        for weight in weights_of(model)
        if id(weight.variable) in known and 0 < count_zeros([weight]) < weight.size
    ]
    kernels = tuple(weight for weight in found if weight.is_kernel)
    others = tuple(weight for weight in found if not weight.is_kernel)
    return [Group(HELD, members) for members in (kernels, others) if members]


def _carried(before, groups, same_fit):
    taken = {id(weight.variable) for group in groups for weight in group.weights}
    rest = []
    for group in before:
        own = tuple(weight for weight in group.weights if id(weight.variable) not in taken)
        whole = len(own) == len(group.weights)
        if not own:
            continue
        if same_fit and not whole and group.unit == "channels":
            raise ValueError(
                "Two callbacks of this `fit` prune the same channels: say all in one, as "
                f"kprune.Pruning(layers={{...}}). Received: {[w.name for w in own]} in both"
            )
        if same_fit:
            rest.append(dataclasses.replace(group, weights=own))
        elif whole:
            rest.append(dataclasses.replace(group, setting=HELD))
        else:
            rest.append(Group(HELD, own))
    return rest


def _check_alone(groups):
    """Return groups; raise where a schedule that takes weights back has others beside it."""
    asking = [group.setting.schedule for group in groups if group.setting.asks]
    adaptive = [one for one in asking if one is not None and not one.promises]
    others = [one for one in asking if adaptive and one is not adaptive[0]]
    if others:
        raise ValueError(
            "Adaptive takes the whole model back to earlier weights, so nothing else may be pruned "
            "in the same `fit`: prune the other layers in a `fit` before it, or leave them dense "
            f"with layers={{...: None}}. Received, beside {adaptive[0]!r}: {others[0]!r}"
        )
    return groups


def _warn_if_cut_short(schedules, run):
    """Warn of the schedules that end after the run does."""
    for schedule in schedules:
        ends = max(schedule.end_step, schedule.begin_step)
        if run.last is None or schedule.final_sparsity is None or run.last >= ends:
            continue
        warnings.warn(
            f"This `fit` ends at step {run.last}, before the schedule does (begin_step="
            f"{schedule.begin_step}, end_step={schedule.end_step}): it will reach sparsity "
            f"{expected(schedule, run.last):.4g}, not {schedule.final_sparsity:g}.",
            stacklevel=2,
        )


def _warn_if_zeros_go(group, run):
    """Warn of a schedule that is to begin, or ends, below what is zero already."""
    schedule = group.setting.schedule
    if not schedule.promises:
        return  # It goes on from what is zero.
    update = schedule.last_update(run.now) if run.now else None
    if update is None and backend.is_concrete():
        first, current = schedule(schedule.begin_step)[1], group.held_share()
        if first < current - _SAME_SPARSITY:
            names = [weight.name for weight in group.weights]
            warnings.warn(
                f"In {names} a share of {current:.4g} is zero, and the schedule begins at "
                f"{first:.4g}: zeros will grow back. To keep them, ask for a sparsity, or an "
                f"`initial_sparsity`, of at least {current:.4g}, or leave these layers out, whose "
                "zeros then stay.",
                stacklevel=2,
            )
