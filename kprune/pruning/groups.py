"""What is asked of weights, and of which ones."""

import dataclasses

from keras import ops

from kprune._keras import backend
from kprune.graphs.weights import Weight, count_zeros
from kprune.pruning.allocation import Allocation, Uniform, check_allocation
from kprune.pruning.criteria import Criterion, Magnitude
from kprune.pruning.patterns import NM, Block, Pattern, Unstructured, check_pattern
from kprune.pruning.penalties import Penalty
from kprune.pruning.regrowth import Regrowth
from kprune.pruning.schedules import PruningSchedule, check_schedule, check_sparsity

# The sparsities of a schedule that are counted in double precision.
_NAMED_SPARSITIES = ("initial_sparsity", "final_sparsity")


# Zeros are those of a sparsity when their share differs by no more, besides one of each weight.
_ROUNDING = 1e-5
# Weights with a smaller share of zeros are dense.
_DENSE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """What is asked of some layers: how sparse, when, and how.

    With neither a schedule nor a sparsity, what is zero stays zero.
    """

    schedule: PruningSchedule | None = None
    sparsity: float | None = None
    criterion: Criterion = dataclasses.field(default_factory=Magnitude)
    pattern: Pattern = dataclasses.field(default_factory=Unstructured)
    allocation: Allocation = dataclasses.field(default_factory=Uniform)
    regrowth: Regrowth | None = None
    penalty: Penalty | None = None

    @property
    def needs_gradient(self):
        """Whether masks cannot be computed without gradients."""
        grows = self.regrowth is not None and self.regrowth.needs_gradient
        return self.criterion.needs_gradient or grows

    @property
    def final_sparsity(self):
        """The sparsity this setting ends at; None if its schedule does not say."""
        return self.sparsity if self.schedule is None else self.schedule.final_sparsity

    @property
    def asks(self):
        """Whether it says how sparse."""
        return self.schedule is not None or self.sparsity is not None

    def check(self):
        """Return the setting if its parts are sound, else raise."""
        if self.schedule is not None:
            check_schedule(self.schedule)
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        if not isinstance(self.criterion, Criterion):
            raise TypeError(
                "`criterion` must be a kprune criterion: Magnitude(), Taylor(), Random(). "
                f"Received: {self.criterion!r}"
            )
        if self.criterion.of_activations:
            raise TypeError(
                f"{self.criterion} scores channels by their activations on data, which training "
                "does not keep: use it in kprune.prune_channels(model, ..., criterion=..., data=x)."
            )
        check_pattern(self.pattern)
        if self.criterion.of_channels and type(self.pattern).groups is Pattern.groups:
            raise TypeError(
                f"{self.criterion} scores whole channels: use it in prune_channels, or with "
                f"pattern=Channels(). Received: pattern={self.pattern!r}"
            )
        check_allocation(self.allocation)
        self._check_regrowth()
        self._check_penalty()
        if isinstance(self.pattern, NM) and self.final_sparsity is not None:
            self.pattern.check_sparsity(self.final_sparsity)
        if self.final_sparsity is not None:
            self.allocation.check_sparsity(self.final_sparsity)
        return self

    def _check_regrowth(self):
        if self.regrowth is None:
            return
        if not isinstance(self.regrowth, Regrowth):
            raise TypeError(
                "`regrowth` must be a kprune regrowth, such as kprune.pruning.RigL(). "
                f"Received: {self.regrowth!r}"
            )
        if not isinstance(self.pattern, Unstructured | Block):
            raise TypeError(
                "Regrowth is for single weights and blocks. "
                f"Received: regrowth={self.regrowth!r} with pattern={self.pattern!r}"
            )
        if self.schedule is not None and self.schedule.end_step < 0:
            raise ValueError(
                "Regrowth needs a schedule that ends, so that what has come back is trained: give "
                f"it an `end_step`. Received: schedule={self.schedule!r}"
            )

    def _check_penalty(self):
        if self.penalty is None:
            return
        if not isinstance(self.penalty, Penalty):
            raise TypeError(
                "`penalty` must be a kprune penalty, such as kprune.pruning.Lasso(0.01). "
                f"Received: {self.penalty!r}"
            )
        if isinstance(self.pattern, NM):
            raise TypeError(
                "Penalties are for single weights, blocks and channels. "
                f"Received: penalty={self.penalty!r} with pattern={self.pattern!r}"
            )
        if self.penalty.of_pruned and self.asks and not self.final_sparsity:
            raise ValueError(
                f"{self.penalty} needs a sparsity, or a schedule that names its `final_sparsity`, "
                "by which to tell what will be pruned. "
                f"Received: schedule={self.schedule!r}, sparsity={self.sparsity!r}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The weights that share one setting.

    Attributes:
        setting: the `Setting`.
        weights: tuple of `Weight`s.
        unit: what a sparsity counts, "weights" or "channels".
    """

    unit = "weights"

    setting: Setting
    weights: tuple[Weight, ...]

    def masks(
        self,
        values,
        sparsity,
        gradients=None,
        scores=None,
        exchanged=None,
        accumulated=None,
        step=None,
    ):
        """Return the mask of each weight at a sparsity.

        Args:
            values: list of tensors, the weights' values.
            sparsity: float, or float32 scalar tensor.
            gradients: list of tensors, for a criterion that needs them.
            scores: a criterion to use instead of the setting's.
            exchanged: float32 scalar tensor, the share of what is kept that the setting's
                regrowth chooses.
            accumulated: list of tensors, for a criterion that accumulates.
            step: integer scalar tensor, for the regrowth.
        """
        setting = self.setting
        scores = scores or setting.criterion
        gradients = gradients or [None] * len(values)
        given = scored(values, gradients, accumulated)
        shapes = [tuple(weight.variable.shape) for weight in self.weights]
        axes = [weight.axes for weight in self.weights]
        units, counts = [], []
        for arguments, shape, ax in zip(given, shapes, axes):
            units.append(setting.pattern.units(scores(*arguments), ax))
            counts.append(setting.pattern.count(shape, ax))
        known = [getattr(setting.schedule, name, None) for name in _NAMED_SPARSITIES]
        if exchanged is not None:
            fewer = 1 - (1 - sparsity) * (1 - exchanged)
            kept = setting.allocation.unit_masks(units, counts, shapes, fewer, ())
            units = [
                ops.where(one, float("inf"), ops.cast(coming, "float32"))
                for one, coming in zip(kept, self._coming(values, gradients, step))
            ]
        masks = setting.allocation.unit_masks(
            units, counts, shapes, sparsity, [s for s in known if s is not None]
        )
        return [setting.pattern.expand(m, s, ax) for m, s, ax in zip(masks, shapes, axes)]

    def penalized(self, values, amount, pruned=None):
        """Return the weights' values, drawn towards zero by the setting's penalty.

        Args:
            values: list of tensors.
            amount: float32 scalar tensor, as of `Penalty.factors`.
            pruned: list of bool tensors, the weights that it acts on; None for all.
        """
        factors = self._factors(values, amount)
        if pruned is not None:
            factors = [ops.where(gone, factor, 1.0) for gone, factor in zip(pruned, factors)]
        # A product would make -0 of what is below zero.
        return [
            ops.where(factor == 0, 0.0, value * ops.cast(factor, value.dtype))
            for value, factor in zip(values, factors)
        ]

    def _factors(self, values, amount):
        pattern, penalty = self.setting.pattern, self.setting.penalty
        return [
            pattern.expand(
                penalty.of_units(pattern.sizes(value, weight.axes), amount),
                tuple(weight.variable.shape),
                weight.axes,
            )
            for value, weight in zip(values, self.weights)
        ]

    def _coming(self, values, gradients, step):
        """The scores by which regrowth chooses, of the units of each weight."""
        return [
            self.setting.pattern.units(
                self.setting.regrowth.scores(value, gradient, step), weight.axes
            )
            for value, gradient, weight in zip(values, gradients, self.weights)
        ]

    def count(self):
        """Return `(pruned, all)`: how many of the things that a sparsity counts are zero now."""
        return count_zeros(self.weights), sum(w.size for w in self.weights)

    def held(self):
        """Return the masks that keep what is zero now; a weight that is all zero is free."""
        masks = [ops.not_equal(backend.read(weight.variable), 0) for weight in self.weights]
        return [ops.logical_or(mask, ops.logical_not(ops.any(mask))) for mask in masks]

    def restored(self, sparsity):
        """Return the masks of the zeros there are, or new ones if they do not fit a sparsity."""
        values = [backend.read(weight.variable) for weight in self.weights]
        if sparsity > 0 and self.fits(sparsity):
            return [ops.not_equal(value, 0) for value in values]
        return self.masks(values, sparsity, scores=Magnitude())

    def fits(self, sparsity):
        """Return whether so many units are zero now as are to be at a sparsity.

        The compiled step counts in float32: of each weight it may be one more or less, and of
        large ones a few.
        """
        return abs(self.lacking(sparsity)) <= self.slack

    @property
    def slack(self):
        """By how many units the zeros of a sparsity may differ from what is asked."""
        return len(self.weights) + _ROUNDING * sum(weight.size for weight in self.weights)

    def missing(self, sparsity):
        """Return how many units are not zero now that are to be at a sparsity, at least 0."""
        return max(self.lacking(sparsity), 0)

    def lacking(self, sparsity):
        """Return how many more units are to be zero at a sparsity than are now."""
        counts, shapes, zeros = [], [], 0
        for weight in self.weights:
            value, pattern = backend.read(weight.variable), self.setting.pattern
            counts.append(pattern.count(tuple(weight.variable.shape), weight.axes))
            shapes.append(tuple(weight.variable.shape))
            zeros += int(backend.count_true(pattern.units(ops.abs(value), weight.axes) == 0))
        return self.setting.allocation.total(counts, shapes, sparsity) - zeros

    def floored(self, sparsity):
        """Return the weights that keep their last unit, though a sparsity rounds to all of them."""
        if not isinstance(self.setting.allocation, Uniform):
            return []
        return [
            weight
            for weight in self.weights
            if _rounds_to_all(self.setting.pattern, weight, sparsity)
        ]

    def held_share(self):
        """Return the share that is zero now and would be held.

        0.0 where it cannot be known, while TensorFlow traces a step.
        """
        if not backend.is_concrete():
            return 0.0
        zeros = sum(int(backend.count_true(ops.logical_not(mask))) for mask in self.held())
        return zeros / sum(weight.size for weight in self.weights)

    def is_at(self, sparsity):
        """Return whether the zeros are those that the group has at a sparsity."""
        if not sparsity:
            return self.held_share() < _DENSE
        return backend.is_concrete() and self.fits(sparsity)

    def by(self, schedule):
        """Return the group with a schedule."""
        return dataclasses.replace(
            self, setting=dataclasses.replace(self.setting, schedule=schedule)
        )

    def only(self, variables):
        """Return the group of those weights that are among `variables`; None if none is."""
        known = {id(variable) for variable in variables}
        weights = tuple(w for w in self.weights if id(w.variable) in known)
        return dataclasses.replace(self, weights=weights) if weights else None


def scored(values, gradients=None, accumulated=None):
    """Return, for each weight, what its criterion is called on; a list of tuples of tensors."""
    gradients = gradients or [None] * len(values)
    return list(zip(values, gradients, *([] if accumulated is None else [accumulated])))


def _rounds_to_all(pattern, weight, sparsity):
    n, most = pattern.count(tuple(weight.variable.shape), weight.axes)
    return most == n - 1 and round(sparsity * n) > most


def pruned_share(groups):
    """Return the share of what the `Group`s prune, weights or channels, that is zero now."""
    counts = [one.count() for one in groups]
    return sum(pruned for pruned, _ in counts) / max(sum(total for _, total in counts), 1)


def near_zero_share(groups):
    """Return the share of the weights under a penalty that are zero, or next to it, now.

    Next to zero is what is smaller than a hundredth of the root mean square of its variable.
    """
    small, total = 0, 0
    for weight in (w for group in groups if group.setting.penalty for w in group.weights):
        size = ops.abs(ops.cast(backend.read(weight.variable), "float32"))
        limit = 0.01 * ops.sqrt(ops.mean(ops.square(size)))
        small += int(backend.count_true(size <= limit))
        total += weight.size
    return small / max(total, 1)


def check_finite(weights):
    """Raise `ValueError` if one of the `Weight`s is NaN or infinite."""
    for weight in weights:
        if not bool(ops.all(ops.isfinite(backend.read(weight.variable)))):
            raise ValueError(
                f"{weight.name} has weights that are NaN or infinite, which cannot be ranked. "
                "If they became so in training, it diverged: lower the learning rate or clip "
                "the gradients."
            )
