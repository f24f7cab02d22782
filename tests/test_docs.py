"""docs/: the code of docs/training.md runs, and what the pages quote is in the package."""

import ast
import re
from pathlib import Path

import pytest
from keras.src.trainers import trainer

import kprune
from tests.helpers.training import backend

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
BACKENDS = ("tensorflow", "jax", "torch")


def blocks():
    """(line number, code) of the page's blocks that this backend can run."""
    text = PAGE.read_text()
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        imported = re.findall(r"^import (\w+)", match[1], re.MULTILINE)
        if not set(imported) & (set(BACKENDS) - {backend()}):
            found.append((text[: match.start()].count("\n") + 1, match[1]))
    return found


@pytest.mark.filterwarnings("error::UserWarning:kprune")
def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # XLA would take longer than all the training.
    monkeypatch.setattr(trainer, "model_supports_jit", lambda model: backend() != "tensorflow")
    namespace = {"__name__": "docs"}
    for line, code in blocks():
        # With empty lines before it, so that a traceback shows the page's own line.
        exec(compile("\n" * line + code, str(PAGE), "exec"), namespace)
    quoted = re.search(r"^    (kprune: sparsity .*)$", PAGE.read_text(), re.MULTILINE)[1]
    assert quoted in capsys.readouterr().out.splitlines()


def strings_of_the_package():
    found = []
    for path in sorted((ROOT / "kprune").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages():
    """What the first cells of the tables of warnings and errors quote."""
    found = []
    for line in PAGE.read_text().partition("\n## Warnings\n")[2].splitlines():
        cell = line.strip("|").split(" | ")[0]
        found += [one or other for one, other in re.findall(r"``(.+?)``|`(.+?)`", cell)]
    return found


def test_the_messages_are_those_of_the_package():
    strings = "\n".join(strings_of_the_package())
    messages = quoted_messages()
    assert len(messages) > 10
    for message in messages:
        parts = [part for part in re.split("…|EarlyStopping|stripped|exported", message) if part]
        assert [part for part in parts if part not in strings] == [], message


@pytest.mark.parametrize("page", ["README.md", "docs/training.md", "docs/tfmot.md"])
def test_names_and_links_exist(page):
    path = ROOT / page
    text = path.read_text()
    for name in sorted(set(re.findall(r"\bkprune((?:\.\w+)+)", text))):
        value = kprune
        for part in name.split(".")[1:]:
            assert hasattr(value, part), f"kprune{name}"
            value = getattr(value, part)
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / link).exists(), link
