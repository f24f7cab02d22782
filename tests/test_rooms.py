"""Imports go one way: a room imports only from those below it."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kprune"
PAGE = PACKAGE.parent / "docs" / "architecture.md"
# From the ground up.
ROOMS = [
    "_system",
    "report",
    "_keras",
    "graphs",
    "pruning",
    "training",
    "structured",
    "oneshot",
    "formats",
    "runtimes",
    "targets",
    "export",
    "measure",
    "compression",
    "search",
    "demo",
    "tfmot",
    "cli",
]


def _room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported(path):
    """Yield (line, module) of everything of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}" if module == "kprune" else module
                yield node.lineno, whole


def test_every_room_has_its_place():
    found = {_room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_upward(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    upward = [
        f"{path.relative_to(PACKAGE)}:{line} {module}"
        for path in PACKAGE.rglob("*.py")
        if _room(path) == room
        for line, module in _imported(path)
        if module.startswith("kprune.") and module.split(".")[1] in above
    ]
    assert not upward, upward


def test_only_one_room_knows_the_schema_of_tflite():
    at_home = PACKAGE / "formats" / "tflite"
    schema = re.compile(r"ai_edge_litert(\.schema_py_generated|\.tools.*)?|flatbuffers.*")
    elsewhere = [
        f"{path.relative_to(PACKAGE)}:{line} {module}"
        for path in PACKAGE.rglob("*.py")
        if at_home not in path.parents
        for line, module in _imported(path)
        if schema.fullmatch(module)
    ]
    assert not elsewhere, elsewhere


def test_the_page_of_the_architecture_has_every_room():
    text = PAGE.read_text()
    tree = re.search(r"^kprune/\n(.*?)^examples/", text, re.DOTALL | re.MULTILINE)[1]
    named = [line.split()[0].rstrip("/") for line in tree.splitlines()]
    assert [name.removesuffix(".py") for name in named] == ["__init__", *reversed(ROOMS)]
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (PACKAGE / path).exists() or (PACKAGE.parent / path).exists(), path


def test_no_module_hides_one_of_python():
    """Programs here are run by their path, and then find their neighbours first."""
    hiding = [path.name for path in PACKAGE.rglob("*.py") if path.stem in sys.stdlib_module_names]
    assert not hiding
