"""What is private in Keras is used in `kprune._keras` only, and each use has a contract test."""

import ast
import functools
from pathlib import Path

import keras
import pytest

PACKAGE = Path(__file__).parents[2] / "kprune"
# Private names of others than Keras, and why they are used.
ALLOWED = {
    "_fields": "of named tuples, documented by Python",
    "_mlir_quantize": "TensorFlow's: its converter passes no `denylisted_nodes` on",
}
_LOOKED_UP = {"getattr", "setattr", "hasattr", "delattr"}


@functools.cache
def _files(room=None):
    found = PACKAGE.rglob("*.py") if room is None else (PACKAGE / room).rglob("*.py")
    return [(path, ast.parse(path.read_text())) for path in sorted(found)]


def _is_private(name):
    return name.startswith("_") and not name.endswith("__") and not name.startswith("_kprune")


def _outside():
    return [(path, tree) for path, tree in _files() if "_keras" not in path.parts]


def _place(path, node):
    return f"{path.relative_to(PACKAGE)}:{node.lineno}"


def _own_names():
    """The private names that kprune itself gives to attributes and methods."""
    found = set()
    for _, tree in _outside():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found |= _defined(node)
    return {name for name in found if _is_private(name)}


def _defined(cls):
    """The names of the attributes and methods that a class defines, private or not."""
    found = set()
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            found.add(node.target.id)
    for node in ast.walk(cls):
        is_store = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_store and isinstance(node.value, ast.Name) and node.value.id == "self":
            found.add(node.attr)
    return found


@functools.cache
def _names_of_keras():
    """The private names of the objects that kprune meets."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(inputs))
    model.compile("adam", "mse")
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build(model.trainable_variables)
    things = [
        inputs,
        dense,
        model,
        optimizer,
        dense.kernel,
        dense.dtype_policy,
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]),
        keras.layers.MultiHeadAttention(1, 1),
        keras.layers.Lambda(lambda x: x),
        keras.layers.BatchNormalization(),
        keras.layers.Bidirectional(keras.layers.LSTM(1)),
        keras.callbacks.History(),
        keras.initializers.Zeros(),
        keras.StatelessScope(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
    ]
    names = {name for thing in things for name in [*dir(thing), *vars(thing)]}
    return {name for name in names if _is_private(name)}


def _is_self(node):
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_vars(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars"


def _accesses(tree):
    """Yield (node, name, whether it is of self) of what is read or set, by attribute or by name."""
    for node in ast.walk(tree):
        name = owner = None
        if isinstance(node, ast.Attribute):
            name, owner = node.attr, node.value
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            if isinstance(node.func, ast.Name) and node.func.id in _LOOKED_UP:
                owner, name = node.args[0], getattr(node.args[1], "value", None)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            if _is_vars(node.func.value):  # vars(thing).get("_name")
                owner, name = node.func.value.args[0], getattr(node.args[0], "value", None)
        elif isinstance(node, ast.Subscript) and _is_vars(node.value):
            owner, name = node.value.args[0], getattr(node.slice, "value", None)
        elif isinstance(node, ast.Compare) and any(map(_is_vars, node.comparators)):
            name = getattr(node.left, "value", None)
        if isinstance(name, str) and _is_private(name):
            yield node, name, owner is not None and _is_self(owner)


def test_private_names_are_those_of_kprune():
    own, of_keras = _own_names(), _names_of_keras()
    found = [
        f"{_place(path, node)} {name}"
        for path, tree in _outside()
        for node, name, is_self in _accesses(tree)
        if name not in ALLOWED and (name not in own or (name in of_keras and not is_self))
    ]
    assert not found, found


def test_what_derives_from_keras_defines_no_private_name_of_it():
    classes = {
        node.name: (path, node)
        for path, tree in _files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def derives(node):
        bases = [ast.unparse(base) for base in node.bases]
        return any(
            base.startswith("keras.") or (base in classes and derives(classes[base][1]))
            for base in bases
        )

    of_keras = _names_of_keras()
    found = [
        f"{_place(path, node)} {node.name}: {sorted(_defined(node) & of_keras)}"
        for path, node in classes.values()
        if "_keras" not in path.parts and derives(node) and _defined(node) & of_keras
    ]
    assert not found, found


def test_no_private_module_of_keras():
    found = []
    for path, tree in _outside():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                said = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                said = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                said = [ast.unparse(node)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said = [node.value]
            else:
                continue
            if any("keras.src" in one or "keras_src" in one for one in said):
                found.append(_place(path, node))
    assert not found, found


def test_nothing_of_keras_is_set_and_nothing_mocked():
    found = []
    for path, tree in _outside():
        for node in ast.walk(tree):
            said = ""
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                said = ast.unparse(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "replaced"):
                said = ast.unparse(node.args[0])
            elif isinstance(node, ast.Import | ast.ImportFrom):
                said = "mock" if any("mock" in alias.name for alias in node.names) else ""
            if said.partition(".")[0] in ("keras", "mock"):
                found.append(_place(path, node))
    assert not found, found


ROOM = [path for path, _ in _files("_keras") if path.stem != "__init__"]


@pytest.mark.parametrize("path", ROOM, ids=[path.stem for path in ROOM])
def test_each_function_has_a_contract_test(path):
    """`test_<name>` or `test_<name>_...`, in the file of tests for the module."""
    public = {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    tests = (Path(__file__).parent / f"test_{path.stem}.py").read_text()
    names = [node.name for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.FunctionDef)]
    missing = [
        name
        for name in sorted(public)
        if not any(f"{test}_".startswith(f"test_{_snake(name)}_") for test in names)
    ]
    assert not missing, missing


def _snake(name):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def test_the_guard_finds_what_it_is_to_find():
    code = """
layer._layers
getattr(layer, "_layers")
vars(layer)["_layers"]
vars(layer).get("_layers")
"_layers" in vars(layer)
layer._layers = []
self._layers
"""
    found = [(name, is_self) for _, name, is_self in _accesses(ast.parse(code))]
    assert sorted(found) == [("_layers", False)] * 6 + [("_layers", True)]
    assert "_layers" in _names_of_keras()
