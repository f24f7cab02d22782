"""Files come whole, where they belong, as they were; and killed writers leave nothing for long."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kprune._system import files
from kprune.export import ExportError, export_onnx
from tests.helpers.zoo import ZOO

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and locks of POSIX")


def put(path, data=b"new"):
    path = files.destination(path, path.suffix)
    with files.replacing(path) as temporary:
        files.write(temporary, data, path)


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "v1.onnx", tmp_path / "m.onnx"
    target.write_bytes(b"old")
    link.symlink_to(Path("store") / "v1.onnx")
    put(link)
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    target.unlink()
    put(link, b"again")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"again")
    assert os.listdir(tmp_path / "store") == ["v1.onnx"]


@posix
def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(OSError, match="leads back to itself"):
        files.destination(tmp_path / "loop.onnx", ".onnx")
    (tmp_path / "lost.onnx").symlink_to(tmp_path / "no" / "m.onnx")
    with pytest.raises(FileNotFoundError, match="a link to"):
        files.destination(tmp_path / "lost.onnx", ".onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="a device or a pipe"):
        files.destination(tmp_path / "pipe.onnx", ".onnx")


@posix
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_the_mode_of_a_file_is_kept(tmp_path, mode):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    path.chmod(mode)
    with files.replacing(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == mode | 0o600
        files.write(temporary, b"new", path)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, b"new")


@posix
def test_a_new_file_has_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    put(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_long_names_are_taken_or_refused_before_the_work(tmp_path, monkeypatch):
    put(tmp_path / ("a" * 250 + ".onnx"))
    monkeypatch.setattr("kprune.export.transport.convert", lambda *_: pytest.fail("too late"))
    model = ZOO["mlp"]()
    for path in (tmp_path / ("a" * 251 + ".onnx"), tmp_path / ("a/" * 2100) / "m.onnx"):
        with pytest.raises(OSError, match=r"too long \(\d+ bytes.*give a shorter one"):
            export_onnx(model, path)
    with pytest.raises(ValueError, match="No file can have this name"):
        export_onnx(model, tmp_path / "a\0b.onnx")


def test_a_place_where_no_file_can_be_made_is_found_before_the_work(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kprune.export.transport.convert", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(PermissionError, match=r"No file can be made in.*Permission denied"):
        put(tmp_path / "m.onnx")


def test_the_first_error_is_the_one_that_is_seen(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("second")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="first"), files.replacing(tmp_path / "m.onnx"):
        raise ValueError("first")
    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(ExportError, match=r"Could not write.*second"):
        put(tmp_path / "m.onnx")


HOLD = """
import contextlib, sys
from pathlib import Path
from kprune._system import files
folder = Path(sys.argv[1])
with contextlib.ExitStack() as stack:
    one = stack.enter_context(files.replacing(folder / "m.onnx"))
    two = stack.enter_context(files.scratch())
    (two / "model").write_text("x")
    print(one, two, sep="\\n", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a temporary file and a folder; return it and their paths."""
    started = []

    def start():
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}, **pipes)
        started.append(process)
        return process, [Path(process.stdout.readline().rstrip("\n")) for _ in range(2)]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@posix
def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (_, running), (victim, left) = holder(), holder()
    others = [tmp_path / name for name in (".kprune-notes.tmp", ".m.onnx.1a2b3c4d.tmp")]
    for other in others:
        other.touch()
    others.append(tmp_path / "kprune-scratch-mine")
    others[-1].mkdir()
    victim.kill()
    victim.communicate()
    assert all(path.exists() for path in [*running, *left])
    put(tmp_path / "other.json")
    assert [path.exists() for path in left] == [False, True]
    with files.scratch() as folder:
        assert folder.parent == tmp_path
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in [*running, *others])


@posix
def test_a_new_folder_that_was_swept_at_once_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mkdir, swept = Path.mkdir, []

    def make_and_sweep(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if not swept:
            swept.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", make_and_sweep)
    with files.scratch() as folder:
        assert folder != swept[0]
        assert folder.is_dir()
    assert os.listdir(tmp_path) == []
