"""Layers and variables that functions take from their surroundings."""

import types

import keras


def captured(function):
    """Return the layers and variables that a function refers to, but is not given.

    Args:
        function: a Python function; of anything else nothing is known.
    """
    if not isinstance(function, types.FunctionType):
        return []
    values = [*map(_content, function.__closure__ or ()), *_globals(function).values()]
    return [value for value in values if _has_weights(value)]


def rebound(function, new_of):
    """Return the function with other layers and variables in the place of those it refers to.

    Args:
        function: a Python function.
        new_of: function from a layer or variable to the one in its place, or to None.
    """
    if not any(new_of(value) is not None for value in captured(function)):
        return function

    def replaced(value):
        new = new_of(value) if _has_weights(value) else None
        return value if new is None else new

    closure = tuple(
        types.CellType(replaced(_content(cell))) if _has_weights(_content(cell)) else cell
        for cell in function.__closure__ or ()
    )
    names = {name: replaced(value) for name, value in _globals(function).items()}
    new = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        closure or None,
    )
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new).update(vars(function))
    return new


def _has_weights(value):
    return isinstance(value, keras.Variable | keras.Layer)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # Nothing has been assigned yet.
        return None


def _globals(function):
    names = function.__code__.co_names
    return {name: function.__globals__[name] for name in names if name in function.__globals__}
