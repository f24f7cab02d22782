"""A method of one layer or model replaced by another one, and put back."""

import functools

_REPLACED = "_kprune_replaced"


def replace_method(thing, name, around):
    """Replace a method of one object by `around(method, ...)`.

    Keras calls `call` and `train_step` on the object itself, and has no hooks around them; a
    subclass made for the purpose would not be saved as the class that it is.

    Args:
        thing: a layer or model.
        name: str, the method's.
        around: function of the method that was there and of the arguments of a call.
    """
    own = getattr(thing, name)

    @functools.wraps(own)
    def replacement(*args, **kwargs):
        return around(own, *args, **kwargs)

    setattr(replacement, _REPLACED, True)
    vars(thing)[name] = replacement  # Not `setattr`, in which Keras tracks what it is given.


def is_replaced(thing, name):
    """Whether a method of an object is one that `replace_method` put there."""
    return hasattr(vars(thing).get(name), _REPLACED)


def restore_method(thing, name):
    """Put back the method that `replace_method` replaced."""
    own = vars(thing).pop(name).__wrapped__
    if getattr(own, "__func__", None) is not getattr(type(thing), name):
        vars(thing)[name] = own  # It had one of its own before.
