"""An attribute of somebody else's module or class, replaced or removed for a while."""

import contextlib


@contextlib.contextmanager
def replaced(owner, name, new):
    """A scope in which an attribute of a module or class is another one; all threads see it.

    Args:
        owner: a module or class that has the attribute itself.
        name: str, the attribute's.
        new: what stands in its place.
    """
    original = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def removed(owner, name):
    """A scope in which a class lacks an attribute, if it has it itself; all threads see it.

    Args:
        owner: a class.
        name: str, the attribute's.
    """
    if name not in vars(owner):
        yield
        return
    original = vars(owner)[name]
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, original)
