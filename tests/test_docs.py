"""The pages: the code of some of them runs, and what all of them name is in the package."""

import ast
import re
from pathlib import Path

import keras
import pytest
from keras.src.trainers import trainer

import kprune
from kprune.structured.rules import registry
from tests.helpers.clock import Clock, device_times, net
from tests.helpers.training import backend

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
BACKENDS = ("tensorflow", "jax", "torch")


def blocks(page):
    """(line number, code) of a page's blocks that this backend can run."""
    text = page.read_text()
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        imported = re.findall(r"^import (\w+)", match[1], re.MULTILINE)
        if not set(imported) & (set(BACKENDS) - {backend()}):
            found.append((text[: match.start()].count("\n") + 1, match[1]))
    return found


def run(page):
    """Run the blocks of a page one after the other; return the names they leave."""
    namespace = {"__name__": "docs"}
    for line, code in blocks(page):
        # With empty lines before it, so that a traceback shows the page's own line.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    return namespace


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning:kprune")
def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # XLA would take longer than all the training.
    monkeypatch.setattr(trainer, "model_supports_jit", lambda model: backend() != "tensorflow")
    run(PAGE)
    quoted = re.search(r"^    (kprune: sparsity .*)$", PAGE.read_text(), re.MULTILINE)[1]
    assert quoted in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_the_code_of_the_page_on_optimize_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "optimize.md")
    assert Path(names["best"]).is_file()
    assert names["small"].met
    assert len(names["result"].points) == 3


@pytest.mark.slow
@pytest.mark.skipif(backend() != "tensorflow", reason="one backend shows that it runs")
def test_the_code_about_latency_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPRUNE_LATENCY_CACHE", str(tmp_path / "cache"))
    page = (ROOT / "docs" / "channels.md").read_text()
    section = page.split("## Latency as the budget\n")[1].split("\n## ")[0]
    codes = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert len(codes) == 4
    keras.utils.set_random_seed(0)
    namespace = {"kprune": kprune, "model": net(32)}
    for code in codes:
        if "device.json" in code:
            files = sorted((tmp_path / "operators").glob("*.tflite"))
            device_times(files, Clock(), tmp_path / "device.json")
        exec(compile(code, "channels.md", "exec"), namespace)
        if "small" in namespace:
            small = namespace.pop("small")
            assert small.count_params() < namespace["model"].count_params()


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


@pytest.mark.parametrize("page", PAGES)
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


@pytest.fixture
def _as_before():
    """What the page registers is not there for other tests."""
    rules, targets = dict(registry._RULES), dict(kprune.targets.TARGETS)
    with keras.saving.custom_object_scope({}):
        yield
    for table, before in ((registry._RULES, rules), (kprune.targets.TARGETS, targets)):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("_as_before")
def test_what_contributors_are_told_to_write_works(capsys):
    """A criterion, a channel rule and a target."""
    names = run(CONTRIBUTING)
    weight = keras.ops.array([[2.0, -2.0], [1.0, 0.5]])
    gradient = keras.ops.array([[-1.0, 1.0], [-1.0, 1.0]])
    scores = names["Shrinking"]()(weight, gradient)
    assert keras.ops.convert_to_numpy(scores).tolist() == [[2.0, 2.0], [1.0, 0.0]]
    assert names["small"].count_params() <= 0.52 * names["model"].count_params()
    assert names["small"].layers[1].gamma.shape == (names["small"].layers[0].units,)
    assert "my-board" in capsys.readouterr().out


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference.md").read_text()
    for room in re.findall(r"^## `kprune\.(\w+)`$", text, re.MULTILINE):
        section = text.split(f"## `kprune.{room}`")[1].split("\n## ")[0]
        listed = re.findall(r"^\| `(\w+)`( \*)? \|", section, re.MULTILINE)
        module = getattr(kprune, room)
        assert {name for name, _ in listed} == set(module.__all__)
        assert {name for name, star in listed if star} == set(module.__all__) & set(kprune.__all__)
    assert set(re.findall(r"^\| `(\w+)` \* \|", text, re.MULTILINE)) == set(kprune.__all__)
