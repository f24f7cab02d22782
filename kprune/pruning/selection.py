"""The language of `layers=`: which weights, and what is asked of each."""

import dataclasses
import fnmatch

import keras

from kprune.pruning.groups import Group, Setting
from kprune.pruning.patterns import Pattern
from kprune.pruning.schedules import PruningSchedule, check_sparsity


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
        if value.get("sparsity") is not None and value.get("schedule") is not None:
            raise ValueError(
                "Give a `sparsity` or a `schedule`, not both, in the settings of `layers`. "
                f"Received: {value}"
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
