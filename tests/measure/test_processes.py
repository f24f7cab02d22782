"""What a benchmark starts ends with it, also when it is killed."""

import os
import subprocess
import sys

import pytest

from tests.helpers.processes import gone, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="keepers are for POSIX")

# A worker and a browser that tell their ids, and then do not end by themselves.
WORKER = """
import os, signal, sys
with open(sys.argv[1].split('"path": "')[1].split('"')[0], "a") as file:
    file.write(f"{os.getpid()}\\n")
os.close(0)
signal.pause()
"""
BROWSER = """#!/bin/sh
sleep 600 &
echo $! >> "$IDS"
echo $$ >> "$IDS"
wait
"""
PARENT = """
import sys
from pathlib import Path
from kprune.measure import worker
from kprune.runtimes.litertjs import browser
from kprune.measure.runner import Runner

folder = Path(sys.argv[1])
worker.__file__ = str(folder / "worker.py")
config = {"path": str(folder / "ids"), "threads": 1}
with browser._chromium(str(folder / "browser"), "") as (process, _):
    print(flush=True)
    with Runner(folder / "ids", config, 600):
        pass
"""


@pytest.mark.slow
def test_a_killed_benchmark_leaves_no_process_and_no_folder(tmp_path):
    ids, temporary = tmp_path / "ids", tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "browser").write_text(BROWSER)
    (tmp_path / "browser").chmod(0o755)
    ids.touch()
    environment = os.environ | {"TMPDIR": str(temporary), "IDS": str(ids)}
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        parent.stdout.readline()
        wait_until(lambda: ids.read_text().count("\n") == 3)
        found = [int(line) for line in ids.read_text().split()]
        (profile,) = (path for path in temporary.iterdir() if path.name.startswith("kprune-"))
        assert not any(gone(pid) for pid in found)
    finally:
        parent.kill()
        parent.communicate()
    wait_until(lambda: all(gone(pid) for pid in found))
    wait_until(lambda: not profile.exists())
