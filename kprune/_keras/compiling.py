"""What a model was compiled with, for another model to be compiled with the same."""

import keras


def compile_settings(model):
    """Return the arguments of `compile`, as they were given; None of a model that is not compiled.

    Needs `Trainer._compile_config.config`: `get_compile_config` serializes them, which functions
    of the user's that are not registered do not survive.
    """
    if not getattr(model, "compiled", False) or not hasattr(model, "_compile_config"):
        return None
    return dict(model._compile_config.config)


def compiles_in_its_own_way(model):
    """Whether a model that is compiled has a `compile` of its own, whose arguments are not known.

    Needs `compile` of `keras.Model` to be the one that `Trainer` has.
    """
    return bool(model.compiled) and type(model).compile is not keras.Model.compile


def compile_like(model, other, **changes):
    """Compile a model with what another one was compiled with; an optimizer and metrics are new.

    The optimizer has the learning rate that the other's has now.

    Args:
        model: a built `keras.Model`.
        other: a `keras.Model`; one that is not compiled leaves `model` as it is.
        **changes: arguments of `compile` to set otherwise.
    """
    settings = compile_settings(other)
    if settings is None:
        return
    for name in ("metrics", "weighted_metrics"):
        settings[name] = keras.tree.map_structure(_fresh, settings.get(name))
    settings["optimizer"] = _fresh(other.optimizer)
    model.compile(**settings | changes)


def _fresh(thing):
    """A new object like it, without its state; functions and names as they are."""
    if not isinstance(thing, keras.metrics.Metric | keras.optimizers.Optimizer):
        return thing
    try:
        return type(thing).from_config(thing.get_config())
    except Exception:  # One of the user's whose config is not all it takes.
        return thing
