"""A function of somebody else's module, replaced for a while."""

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
