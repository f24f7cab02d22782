"""Times on disk: found again, by other processes too, and never in the way."""

import json
import os
import subprocess
import sys

import pytest

from kprune.search.latency.cache import Cache, default_cache

PLACE = ["runtime", "1.0", "processor", 1]


def test_times_are_found_again(tmp_path):
    Cache(PLACE, tmp_path).update({"a": 1.5, "b": None})
    again = Cache(PLACE, tmp_path)
    assert [again.get(key) for key in "abc"] == [(True, 1.5), (True, None), (False, None)]
    assert Cache([*PLACE[:-1], 2], tmp_path).get("a") == (False, None)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"seconds": 3}', '{"seconds": {"a": "fast"}}', '{"seconds": {"a": -1}}'],
)
def test_a_damaged_file_is_ignored_and_written_again(tmp_path, text):
    Cache(PLACE, tmp_path).update({"a": 1.5})
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    cache = Cache(PLACE, tmp_path)
    assert cache.get("a") == (False, None)
    cache.update({"b": 2.0})
    assert json.loads(path.read_text())["seconds"] == {"b": 2.0}


def test_what_another_wrote_meanwhile_stays(tmp_path):
    one, other = Cache(PLACE, tmp_path), Cache(PLACE, tmp_path)
    one.update({"a": 1.0})
    other.update({"b": 2.0})
    assert [Cache(PLACE, tmp_path).get(key)[1] for key in "ab"] == [1.0, 2.0]


@pytest.mark.slow
def test_processes_that_write_at_once_leave_a_sound_file(tmp_path):
    code = (
        "import sys; from kprune.search.latency.cache import Cache\n"
        f"cache = Cache({PLACE!r}, sys.argv[1])\n"
        "for i in range(40): cache.update({sys.argv[2] + str(i): float(i)})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (path,) = tmp_path.iterdir()
    times = json.loads(path.read_text())["seconds"]
    assert "a39" in times or "b39" in times


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(PLACE, tmp_path / "file" / "folder")
    cache.update({"a": 1.0})
    assert cache.get("a") == (True, 1.0)


def test_the_folder_is_the_users(monkeypatch, latency_cache):
    assert default_cache() == latency_cache
    monkeypatch.delenv("KPRUNE_LATENCY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", os.sep + "caches")
    assert default_cache().parts[-3:] == ("caches", "kprune", "latency")


def test_without_a_home_nothing_is_kept(monkeypatch, latency_cache):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == latency_cache
    monkeypatch.delenv("KPRUNE_LATENCY_CACHE")
    assert default_cache() is None
    cache = Cache(PLACE)
    cache.update({"a": 1.0})
    assert cache.get("a") == (True, 1.0)


def test_a_move_that_fails_is_no_error(monkeypatch, tmp_path):
    def fails(*_):
        raise OSError("no")

    monkeypatch.setattr("os.replace", fails)
    Cache(PLACE, tmp_path).update({"a": 1.0})
    assert list(tmp_path.iterdir()) == []
