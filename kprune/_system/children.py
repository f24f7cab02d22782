"""Child processes that end when this process does, however it ends."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

_KEEPER = Path(__file__).parent / "_keeper.py"
_PATIENCE = 10.0  # seconds until a keeper that does not answer is killed itself


@contextlib.contextmanager
def child(command, folder=None, **options):
    """Run a command inside the block; yield its `subprocess.Popen`, and end it after the block.

    When this process ends before, killed or not, so does the child, with the processes that it
    started, and then `folder` is deleted.

    Args:
        command: list of str.
        folder: path of a folder that only the child needs.
        **options: for `subprocess.Popen`.
    """
    if os.name == "posix":
        keeper = [sys.executable, "-I", "-S", str(_KEEPER), str(os.getpid()), str(folder or "")]
        command = [*keeper, *command]
        # A Ctrl-C in the terminal is for this process, which then ends the child.
        options["start_new_session"] = True
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        end(process)


def end(process):
    """End a child and what it started, if they still run, and wait until they have."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def python_flags():
    """Return the options that make a Python child trust no more than this process does."""
    flags = sys.flags
    return [
        "-P",  # not the folder it is in
        *(["-E"] if flags.ignore_environment else []),
        *(["-s"] if flags.no_user_site else []),
        *(["-S"] if flags.no_site else []),
    ]
