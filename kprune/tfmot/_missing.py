"""Names that TFMOT has and kprune does not: importing one says what to use instead."""


def not_here(module, names):
    """Return a module's `__getattr__`.

    Args:
        module: its `__name__`.
        names: {name of TFMOT's: what to use instead}.
    """

    def __getattr__(name):
        if name in names:
            # Not an AttributeError, which `from module import name` would replace.
            raise ImportError(f"kprune has no {module[len('kprune.') :]}.{name}: {names[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__
