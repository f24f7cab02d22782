"""Old public names: each works for one release more, and warns with the new one."""

import importlib
import sys
import types
import warnings


def renamed(package, names):
    """Return a function for the `__getattr__` of a package, with which old names go on working.

    A name with a dot in it, such as `sharing.share_weights`, is one of a module that is gone; the
    module is made, so that `from package.sharing import share_weights` works, too.

    Example:

    ```python
    _moved = renamed(__name__, {"WeightSharing": "kprune.WeightClustering"})


    def __getattr__(name):
        return _moved(name)
    ```

    Args:
        package: its `__name__`.
        names: {old name, without the package's: the new name in full}.
    """
    in_modules = {}
    for old, new in names.items():
        module, _, name = old.rpartition(".")
        in_modules.setdefault(module, {})[name] = new
    own = in_modules.pop("", {})
    modules = {}
    for module, inside in in_modules.items():
        full = f"{package}.{module}"
        made = types.ModuleType(full, f"Old names of {package}, deprecated.")
        made.__getattr__ = _finder(full, inside, {}, stacklevel=2)
        sys.modules[full] = modules[module] = made
    return _finder(package, own, modules, stacklevel=3)


def _finder(module, names, modules, stacklevel):
    def find(name):
        if name in modules:
            return modules[name]
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(
            f"{module}.{name} is deprecated and will go; use {new}.",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        home, _, attribute = new.rpartition(".")
        return getattr(importlib.import_module(home), attribute)

    return find
