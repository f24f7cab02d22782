"""A child ends with its parent, however that ends, with what it started and its folder."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kprune._system import children
from tests.helpers.processes import gone, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="keepers are for POSIX")

# A child that starts another one and then is busy where no thread of its own would be heard.
BUSY = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(__import__("os").getpid(), other.pid, flush=True)
signal.pause()
"""
# The module by itself, so that the parent starts at once.
PARENT = """
import importlib.util, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # In the background it is ignored.
spec = importlib.util.spec_from_file_location("children", sys.argv[1])
children = importlib.util.module_from_spec(spec)
spec.loader.exec_module(children)
with children.child([sys.executable, "-c", sys.argv[3]], folder=sys.argv[2]) as process:
    print(process.pid, flush=True)
    process.wait()
"""


@pytest.fixture
def family(tmp_path):
    """Start a parent; return it, and the ids of its keeper, the child and the child's child."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model").write_text("x")
    command = [sys.executable, "-c", PARENT, children.__file__, str(folder), BUSY]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    keeper, (child, other) = int(parent.stdout.readline()), parent.stdout.readline().split()
    yield parent, keeper, int(child), int(other), folder
    for pid in (parent.pid, keeper, int(child), int(other)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.communicate()


def test_a_killed_parent_takes_all_with_it(family):
    parent, *others, folder = family
    assert not any(gone(pid) for pid in others)
    parent.kill()
    parent.wait()
    wait_until(lambda: all(gone(pid) for pid in others))
    wait_until(lambda: not folder.exists())


def test_ctrl_c_in_the_parent_ends_the_child_and_leaves_the_folder_to_the_parent(family):
    parent, *others, folder = family
    parent.send_signal(signal.SIGINT)
    assert parent.wait(120) != 0
    assert all(gone(pid) for pid in others)
    assert (folder / "model").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_keeper_takes_the_child_with_it(family):
    parent, keeper, child, _, _ = family
    os.kill(keeper, signal.SIGKILL)
    assert parent.wait(120) == 0
    wait_until(lambda: gone(child))


def test_a_keeper_whose_parent_is_gone_already_starts_nothing(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    made = tmp_path / "made"
    command = [sys.executable, str(Path(children.__file__).parent / "_keeper.py")]
    command += [str(os.getppid()), str(folder), sys.executable, "-c", f"open({str(made)!r}, 'w')"]
    subprocess.run(command, check=False, timeout=120)
    assert not folder.exists()
    assert not made.exists()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print(input())", 0),
        ("import sys; print(input()); sys.exit(7)", 7),
        ("import os; print(input(), flush=True); os.abort()", 128 + signal.SIGABRT),
    ],
)
def test_the_childs_streams_and_status_are_its_own(code, status):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with children.child([sys.executable, "-c", code], **pipes) as process:
        assert process.communicate("hello\n")[0] == "hello\n"
    assert process.returncode == status


def test_a_child_that_still_runs_ends_with_the_block():
    command = [sys.executable, "-c", BUSY]
    with children.child(command, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
    assert process.returncode == 128 + signal.SIGTERM
    wait_until(lambda: all(gone(pid) for pid in pids))
    process.stdout.close()
