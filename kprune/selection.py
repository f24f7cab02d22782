"""Which variables of a model are prunable, and what is asked of each one."""

import dataclasses
import fnmatch
import math
import re
import string

import keras
from keras import ops

from kprune import _backend
from kprune.allocation import Allocation, Uniform, check_allocation
from kprune.criteria import Criterion, Magnitude
from kprune.patterns import INPUT_OUTPUT, NM, Pattern, Unstructured, check_pattern
from kprune.schedules import PruningSchedule, check_schedule, check_sparsity

# What Keras calls the weights that its layers multiply inputs with.
_KERNELS = {"kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel"}
_TABLES = {"embeddings", "reverse_embeddings"}
_KERNELS |= _TABLES
_NEVER = {"bias", "bias_hh", "gamma", "beta", "alpha", "scale", "offset"}
_NEVER |= {"moving_mean", "moving_variance"}
# The sparsities of a schedule that are counted in double precision.
_NAMED_SPARSITIES = ("initial_sparsity", "final_sparsity")
# Zeros are those of a sparsity when their share differs by no more, besides one of each weight.
_ROUNDING = 1e-5
FROZEN = "not trainable"
# Names of weights that hold positions, or of their layers: pos_emb, PositionEmbedding.
_POSITION = re.compile(r"(^|[^a-z])pos(ition|itional|itions)?s?([^a-z]|emb|enc|$)")
# Layers that store their output channels (an Embedding: its tokens) before the axis that
# TFLite stores last.
_OUTPUT_FIRST = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Embedding,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One variable of a model, as pruning sees it.

    Attributes:
        variable: the `keras.Variable`.
        layer: the layer that owns it; None when only the variable is known.
        name: its path, such as "encoder/dense/kernel".
        reason: why it is not prunable; None when it is.
        axes: (input-channel axis, output-channel axis) of the variable.
        parents: the layers around `layer` and itself, outermost first.
    """

    variable: keras.Variable
    layer: keras.Layer | None
    name: str
    reason: str | None = None
    axes: tuple[int, int] = INPUT_OUTPUT
    parents: tuple[keras.Layer, ...] = ()

    @property
    def size(self):
        """The number of its entries."""
        return math.prod(self.variable.shape)

    @property
    def is_kernel(self):
        """Whether it is prunable, or would be if it were trainable."""
        return self.reason in (None, FROZEN)


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
        check_pattern(self.pattern)
        check_allocation(self.allocation)
        if isinstance(self.pattern, NM) and self.final_sparsity is not None:
            self.pattern.check_sparsity(self.final_sparsity)
        return self


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

    def masks(self, values, sparsity, gradients=None, scores=None):
        """Return the mask of each weight at a sparsity.

        Args:
            values: list of tensors, the weights' values.
            sparsity: float, or float32 scalar tensor.
            gradients: list of tensors, for a criterion that needs them.
            scores: a criterion to use instead of the setting's.
        """
        setting = self.setting
        scores = scores or setting.criterion
        gradients = gradients or [None] * len(values)
        shapes = [tuple(weight.variable.shape) for weight in self.weights]
        axes = [weight.axes for weight in self.weights]
        units, counts = [], []
        for value, gradient, shape, ax in zip(values, gradients, shapes, axes):
            units.append(setting.pattern.units(scores(value, gradient), ax))
            counts.append(setting.pattern.count(shape, ax))
        known = [getattr(setting.schedule, name, None) for name in _NAMED_SPARSITIES]
        masks = setting.allocation.unit_masks(
            units, counts, shapes, sparsity, [s for s in known if s is not None]
        )
        return [setting.pattern.expand(m, s, ax) for m, s, ax in zip(masks, shapes, axes)]

    def count(self):
        """Return `(pruned, all)`: how many of the things that a sparsity counts are zero now."""
        return count_zeros(self.weights), sum(w.size for w in self.weights)

    def held(self):
        """Return the masks that keep what is zero now; a weight that is all zero is free."""
        masks = [ops.not_equal(_backend.read(weight.variable), 0) for weight in self.weights]
        return [ops.logical_or(mask, ops.logical_not(ops.any(mask))) for mask in masks]

    def restored(self, sparsity):
        """Return the masks of the zeros there are, or new ones if they do not fit a sparsity."""
        values = [_backend.read(weight.variable) for weight in self.weights]
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
            value, pattern = _backend.read(weight.variable), self.setting.pattern
            counts.append(pattern.count(tuple(weight.variable.shape), weight.axes))
            shapes.append(tuple(weight.variable.shape))
            zeros += int(_backend.count_true(pattern.units(ops.abs(value), weight.axes) == 0))
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

    def only(self, variables):
        """Return the group of those weights that are among `variables`; None if none is."""
        known = {id(variable) for variable in variables}
        weights = tuple(w for w in self.weights if id(w.variable) in known)
        return dataclasses.replace(self, weights=weights) if weights else None


def _rounds_to_all(pattern, weight, sparsity):
    n, most = pattern.count(tuple(weight.variable.shape), weight.axes)
    return most == n - 1 and round(sparsity * n) > most


def weights(model):
    """Return every variable of the model's layers, each once, as `Weight`s.

    Args:
        model: a built `keras.Layer` or `keras.Model`.
    """
    found, seen = [], set()

    def visit(layer, parents):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if id(variable) not in seen:
                seen.add(id(variable))
                found.append(_weight(variable, layer, parents))
        for child in layer._layers:
            visit(child, (*parents, child))

    visit(model, () if isinstance(model, keras.Model) else (model,))
    return found


def variable_weights(variables):
    """Return `Weight`s for variables whose layers are not known; their names decide."""
    return [_weight(variable, None, ()) for variable in variables]


def check_model(model):
    """Raise unless `model` is a Keras 3 model that has its weights.

    Layers that were never called, and those that hold no weights, need not be built.
    """
    kind = type(model)
    ancestry = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if not isinstance(model, keras.Layer):
        hint = ""
        if "tf_keras" in ancestry or ("tensorflow" in ancestry and "keras" not in ancestry):
            hint = (
                " This is a tf_keras (Keras 2) model: prune it with "
                "tensorflow_model_optimization, or build it with Keras 3 (`import keras`)."
            )
        raise TypeError(f"Expected a Keras 3 model.{hint} Received: {model!r} (of type {kind})")
    if not is_built(model) and not any(weight.is_kernel for weight in weights(model)):
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights yet. Call it on a "
            "batch of data, or `model.build(input_shape)`, first."
        )


def is_built(model):
    """Whether the model and all layers in it have their weights."""
    return all(layer.built for layer in model._flatten_layers())


def group(found, default, layers=None, model=None):
    """Say for each prunable weight which setting is asked of it.

    Args:
        found: list of `Weight`s.
        default: the `Setting` of what `layers` does not name otherwise; with neither a
            schedule nor a sparsity, that is left dense.
        layers: None, for all; or one or several of: a layer's name (with `*` and `?` as
            wildcards) or the path of a layer, a layer, a layer class, a predicate
            `layer -> bool`; or a dict from those to None (leave dense), a sparsity, a
            schedule, a pattern, or a dict of `Pruning`'s arguments. The first entry that
            matches decides. Naming a layer names all layers inside it. Layers with one and the
            same dict of arguments share one setting, as those of a list do.
        model: the model, for patterns that need to know how its layers are connected.

    Returns:
        List of `Group`s.

    Raises:
        ValueError: nothing to prune, or an entry of `layers` that matches nothing.
    """
    prunable = [w for w in found if w.reason is None]
    if not prunable:
        raise ValueError(
            "This model has no weight that can be pruned: "
            + ("; ".join(f"{w.name}: {w.reason}" for w in found[:10]) or "it has no weights")
            + "."
        )
    rules = _rules(layers, default)
    if not default.asks:
        default = None  # It only fills in what `layers` leaves unsaid.
    matched = [False] * len(rules)
    members = {}
    for weight in prunable:
        setting = default if not rules or isinstance(layers, dict) else None
        for i, (selector, rule_setting) in enumerate(rules):
            if _matches(selector, weight):
                matched[i] = True
                setting = rule_setting
                break
        if setting is not None:
            members.setdefault(id(setting), (setting, []))[1].append(weight)
    _check_all_matched(rules, matched, prunable)
    groups = [Group(setting.check(), tuple(members)) for setting, members in members.values()]
    if not groups:
        raise ValueError(f"`layers` leaves nothing to prune. Received: layers={layers!r}")
    for g in groups:
        for weight in g.weights:
            g.setting.pattern.check(tuple(weight.variable.shape), weight.axes, weight.name)
    order = [id(setting) for _, setting in rules]
    groups.sort(key=lambda g: order.index(id(g.setting)) if id(g.setting) in order else len(order))
    parts = []
    for g in groups:
        parts += g.setting.pattern.groups(g, model, parts)
    return parts


def choose(found, layers=None):
    """Return the `Weight`s of the layers that `layers` names, as `group` reads it.

    Args:
        found: list of `Weight`s.
        layers: as for `group`, but that a dict has None for every value: its layers are
            left out, and all others chosen.

    Raises:
        ValueError: a dict with other values, or an entry of `layers` that matches nothing.
    """
    if isinstance(layers, dict) and any(value is not None for value in layers.values()):
        raise ValueError(
            "Of a dict, `layers` takes the layers to leave as they are, each with None. "
            f"Received: layers={layers!r}"
        )
    default = Setting(sparsity=0.0)
    rules = _rules(layers, default)
    for selector, _ in rules:
        if not any(_matches(selector, weight) for weight in found):
            names = list(dict.fromkeys(w.parents[-1].name for w in found if w.parents))
            raise ValueError(f"`layers` matches nothing with {selector!r}. Layers: {names}")
    left_out = isinstance(layers, dict)
    return [
        weight
        for weight in found
        if not rules or any(_matches(selector, weight) for selector, _ in rules) != left_out
    ]


def count_zeros(found):
    """Return how many entries of the `Weight`s are zero, now."""
    values = (_backend.read(weight.variable) for weight in found)
    # Of booleans, too, which TensorFlow does not compare with 0.
    zeros = (ops.logical_not(ops.cast(value, "bool")) for value in values)
    return sum(int(_backend.count_true(mask)) for mask in zeros)


def sparsity(found):
    """Return the share of zeros in the `Weight`s, now."""
    return count_zeros(found) / sum(weight.size for weight in found)


def pruned_share(groups):
    """Return the share of what the `Group`s prune, weights or channels, that is zero now."""
    counts = [one.count() for one in groups]
    return sum(pruned for pruned, _ in counts) / max(sum(total for _, total in counts), 1)


def _weight(variable, layer, parents):
    name = getattr(variable, "path", variable.name)
    return Weight(
        variable,
        layer,
        name,
        _reason(variable, layer, parents),
        _axes(variable, layer),
        tuple(parents),
    )


def _reason(variable, layer, parents):
    name = variable.name
    if names_its_weights(layer):
        if not any(variable is v for v in layer.get_prunable_weights()):
            return f"{type(layer).__name__}.get_prunable_weights() does not name it"
    elif len(variable.shape) < 2:
        return "rank below 2: a bias, scale or statistic"
    elif name in _NEVER:
        return f"{name}: never pruned"
    elif layer is not None and is_builtin(layer) and name not in _KERNELS:
        return f"{name} of {type(layer).__name__} is not a kernel"
    elif name not in _KERNELS and sum(side > 1 for side in variable.shape) < 2:
        return "a vector: fewer than two of its axes are longer than 1"
    elif _holds_positions(variable, layer, parents):
        return "positions, not a kernel"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"{variable.dtype}, not a float type"
    if not variable.trainable:
        return FROZEN
    return None


def _holds_positions(variable, layer, parents):
    """Whether a table is one of positions, by its shape or by what it, or its layer, is called."""
    if variable.name in _KERNELS - _TABLES:
        return False  # Such as the kernel of a layer named "position_mlp".
    if not isinstance(layer, keras.layers.Embedding) and _is_row_of_tokens(variable.shape):
        return True
    names = [getattr(variable, "path", variable.name)]
    if layer is not None:
        names += [type(layer).__name__, *_attribute_names(layer, variable)]
    if len(parents) > 1:
        names += _attribute_names(parents[-2], layer)
    spelled = (re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names)
    return any(map(_POSITION.search, spelled))


def _is_row_of_tokens(shape):
    # Of one example, and added to, or set beside, each of a batch.
    return len(shape) == 3 and shape[0] == 1


def _attribute_names(owner, value):
    attributes = {**vars(owner), **vars(owner).get("_modules", {})}  # torch keeps layers there.
    return [name for name, own in attributes.items() if own is value]


def names_its_weights(layer):
    """Whether the layer's author says what to prune; a wrapper's method only repeats it."""
    method = getattr(layer, "get_prunable_weights", None)
    return method is not None and not getattr(method, "of_wrapper", False)


def is_builtin(layer):
    """Whether a layer is one of Keras' own."""
    return type(layer).__module__.split(".")[0] == "keras"


def _axes(variable, layer):
    if isinstance(layer, _OUTPUT_FIRST):
        return (-1, -2)
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_axes(layer.equation, len(variable.shape))
    return INPUT_OUTPUT


def _einsum_axes(equation, rank):
    summed, others = einsum_axes(equation, rank)
    return (summed[-1], others[-1]) if summed and others else INPUT_OUTPUT


def einsum_axes(equation, rank):
    """Return two lists of an EinsumDense kernel's axes: summed over, and kept in the output."""
    inputs, output = equation.replace(" ", "").split("->")
    kernel = [letter for letter in inputs.split(",")[1] if letter in string.ascii_letters]
    if len(kernel) != rank:
        return [INPUT_OUTPUT[0]], [INPUT_OUTPUT[1]]
    summed = [i - rank for i, letter in enumerate(kernel) if letter not in output]
    others = [i - rank for i, letter in enumerate(kernel) if letter in output]
    return summed, others


def _rules(layers, default):
    if layers is None:
        return []
    if isinstance(layers, dict):
        return _rules_of_dict(layers, default)
    if isinstance(layers, (list, tuple, set, frozenset)):
        selectors = list(layers)
    else:
        selectors = [layers]
    if not selectors:
        raise ValueError(f"`layers` matches nothing. Received: layers={layers!r}")
    if not default.asks:
        raise ValueError("Give a sparsity or a schedule for the layers that `layers` names.")
    return [(_check_selector(selector), default) for selector in selectors]


def _rules_of_dict(layers, default):
    shared, rules = {}, []
    for selector, value in layers.items():
        setting = shared.get(id(value)) or _setting(value, default)
        if isinstance(value, dict):
            shared[id(value)] = setting
        rules.append((_check_selector(selector), setting))
    return rules


def _check_selector(selector):
    if isinstance(selector, (str, keras.Layer)) or callable(selector):
        return selector
    raise TypeError(
        "`layers` takes layer names, layers, layer classes and predicates, a list of them, or "
        f"a dict from them to settings. Received: {selector!r} (of type {type(selector)})"
    )


def _setting(value, default):
    if value is None:
        return None
    if isinstance(value, Setting):
        return value
    if isinstance(value, PruningSchedule):
        return dataclasses.replace(default, schedule=value, sparsity=None)
    if isinstance(value, Pattern):
        return _needs_sparsity(dataclasses.replace(default, pattern=value), value)
    if isinstance(value, dict):
        known = {field.name for field in dataclasses.fields(Setting)}
        unknown = set(value) - known
        if unknown:
            raise ValueError(
                f"Unknown settings in `layers`: {sorted(unknown)}; known are {sorted(known)}."
            )
        reset = {"schedule": None} if "sparsity" in value else {}
        reset |= {"sparsity": None} if "schedule" in value else {}
        return _needs_sparsity(dataclasses.replace(default, **(reset | value)), value)
    return dataclasses.replace(default, sparsity=check_sparsity(value), schedule=None)


def _needs_sparsity(setting, value):
    if not setting.asks:
        raise ValueError(f"No sparsity is given for the layers set to {value!r} in `layers`.")
    return setting


def _matches(selector, weight):
    if isinstance(selector, str):
        paths = [layer.path for layer in weight.parents]
        names = [layer.name for layer in weight.parents]
        if not weight.parents:
            paths = [weight.name, weight.name.rpartition("/")[0]]
        return any(fnmatch.fnmatchcase(name, selector) for name in names + paths)
    if isinstance(selector, type):
        return any(isinstance(layer, selector) for layer in weight.parents)
    if isinstance(selector, keras.Layer):
        return any(layer is selector for layer in weight.parents)
    # A predicate sees layers as the user put them into the model: an LSTM, not its
    # cell; the layers of a nested model, not the model.
    shown = [layer for layer in weight.parents if not isinstance(layer, keras.Model)]
    return bool(shown) and bool(selector(shown[0]))


def _check_all_matched(rules, matched, prunable):
    unmatched = [selector for (selector, _), hit in zip(rules, matched) if not hit]
    # An entry of a dict may be there in vain only if an earlier one took its layers.
    unmatched = [s for s in unmatched if not any(_matches(s, w) for w in prunable)]
    if unmatched:
        names = list(dict.fromkeys(w.parents[-1].name if w.parents else w.name for w in prunable))
        raise ValueError(
            f"`layers` matches nothing prunable with {unmatched}. Prunable layers: {names}"
        )
