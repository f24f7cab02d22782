"""What was asked of the weights of a model, remembered where they are, and what became of it.

Callbacks that put back the weights of an earlier epoch, a run that ends early, a `fit` without
kprune: many things make a model less sparse than it was asked to be, after the last callback has
looked at it. So each pruned variable carries the request, and whoever is last (the end of `fit`,
`strip_pruning`, an export) compares. It is not saved with the model.
"""

import dataclasses
import warnings

from kprune.pruning.allocation import Uniform
from kprune.pruning.groups import Group, pruned_share

_ATTRIBUTE = "_kprune_request"
_NAMED = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A sparsity that was asked of a `Group` of weights."""

    group: Group
    sparsity: float

    @property
    def missing(self):
        """How many weights, blocks or channels are not zero now that should be."""
        return self.group.missing(self.sparsity)

    @property
    def reached(self):
        """The share that is zero now."""
        return pruned_share([self.group])

    def __str__(self):
        names = [weight.name for weight in self.group.weights if weight.is_kernel]
        named = ", ".join(names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        of = "" if self.group.unit == "weights" else f" of the {self.group.unit}"
        return f"{self.reached:.4g}{of}, where {self.sparsity:g} was asked, in {named}{more}"


def remember(group):
    """Let the weights of a group carry the final sparsity that is asked of them.

    Weights that are only held keep the request that made them sparse.
    """
    if group.setting.asks:
        sparsity = group.setting.final_sparsity
        request = None if not sparsity else Request(group, sparsity)
        for weight in group.weights:
            setattr(weight.variable, _ATTRIBUTE, request)


def requests(model):
    """Return the `Request`s that the weights of a model, layer or list of layers carry."""
    parts = model if isinstance(model, list | tuple) else [model]
    found = {}
    for part in parts:
        for variable in part.variables:
            request = getattr(variable, _ATTRIBUTE, None)
            if request is not None:
                found.setdefault(id(request), (request, []))[1].append(variable)
    parts = (_part(request, variables) for request, variables in found.values())
    return [request for request in parts if request is not None]


def _part(request, variables):
    """The request as far as it is about `variables`; None where a part has no sparsity of its own.

    Others of its weights may carry a later one by now, or belong to another model.
    """
    group = request.group.only(variables)
    if group is None or len(group.weights) == len(request.group.weights):
        return group and request
    if not isinstance(request.group.setting.allocation, Uniform):
        return None
    return dataclasses.replace(request, group=group)


def unmet(model):
    """Return the `Request`s of a model that its weights do not meet now."""
    return [request for request in requests(model) if request.missing]


def warn_if_unmet(model, doing, stacklevel=3):
    """Warn, with both figures, of weights that are less sparse than was asked of them.

    Args:
        model: a model, a layer, or a list of layers.
        doing: what is being done with it, such as "exported".
        stacklevel: as of `warnings.warn`.
    """
    for request in unmet(model):
        warnings.warn(
            f"What is {doing} is less sparse than was asked: {request}. Either the weights of an "
            "epoch before the schedule's end were put back (wrap the callback that picks an epoch "
            "in kprune.after_pruning), or the training ended before the schedule, or zeros grew "
            "back in a training without kprune.HoldZeros().",
            stacklevel=stacklevel,
        )
