"""What a browser leaves in the temporary folder is removed."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from kprune.runtimes.litertjs import browser


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
@pytest.mark.parametrize("length", [0, 80])
def test_temporary_files_of_the_browser_are_removed(tmp_path, monkeypatch, request, length):
    """But where a socket's path would be too long, it has the user's folder."""
    base = tmp_path / ("x" * length) if length else Path(tempfile.mkdtemp(dir="/tmp"))
    base.mkdir(exist_ok=True)
    request.addfinalizer(lambda: shutil.rmtree(base))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.delenv("TMPDIR", raising=False)
    program, said = tmp_path / "browser", tmp_path / "said"
    program.write_text(f'#!/bin/sh\necho "$TMPDIR" > {said}.new; mv {said}.new {said}; sleep 60\n')
    program.chmod(0o755)
    with browser._chromium(str(program), "http://127.0.0.1"):
        until = time.monotonic() + 20
        while not said.exists() and time.monotonic() < until:
            time.sleep(0.02)
        folder = said.read_text().strip()
        if length:
            assert folder == ""
        else:
            assert os.path.isdir(folder)
            assert (
                len(os.path.join(folder, "org.chromium.Chromium.abcdef", "SingletonSocket")) < 108
            )
    assert not folder or not os.path.exists(folder)
