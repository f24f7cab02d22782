import importlib
import sys

import pytest

from kprune.report.plots import bars

pytest.importorskip("matplotlib")


def test_bars_are_drawn_into_an_image(tmp_path):
    path = tmp_path / "out.png"
    spread = ([0.9, 1.9], [1.2, 2.4])
    bars(path, ["dense", "pruned"], [("ms", [1.0, 2.0], spread), ("MB", [3.0, None])], title="t")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_an_unknown_suffix_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png.*Received.*out\.txt"):
        bars(tmp_path / "out.txt", ["a"], [("ms", [1.0])])
    with pytest.raises(OSError, match="nowhere"):
        bars(tmp_path / "nowhere" / "out.png", ["a"], [("ms", [1.0])])


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match=r"kprune\[report\]"):
        bars(tmp_path / "out.png", ["a"], [("ms", [1.0])])
    assert not list(tmp_path.iterdir())
