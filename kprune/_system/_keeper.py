"""Keeps a child process for a parent: when the parent is gone, the child and its folder go, too.

A program of its own, on the standard library alone: `_keeper.py PARENT FOLDER COMMAND...`, with
the parent's process id, and a folder to delete in that case (empty for none). A process that was
killed can clean up nothing, and a child busy inside a C++ library would not notice. Standard
input, output and error are the child's. Its exit status is that of the child, 128 + n for a child
that signal n ended; SIGTERM ends both.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

_LOOK = 0.25  # seconds between two looks whether the parent is there
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, of Linux


def main(parent, folder, command):
    """Run the command until it ends, the parent is gone, or a SIGTERM comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child, code, orphaned = None, 1, False
    try:
        if os.getppid() == parent:
            # Not between the start of the child and the moment that its name is known.
            _block(signal.SIG_BLOCK)
            child = subprocess.Popen(command, start_new_session=True, preexec_fn=_in_the_child())
            _block(signal.SIG_UNBLOCK)
            ended = threading.Event()
            threading.Thread(target=lambda: (child.wait(), ended.set()), daemon=True).start()
            while os.getppid() == parent and not ended.wait(_LOOK):
                pass
            code = child.poll()
        orphaned = os.getppid() != parent
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if child is not None:
            _end(child)
        if orphaned and folder:
            shutil.rmtree(folder, ignore_errors=True)
    return code if code is None or code >= 0 else 128 - code


def _end(child):
    """Kill a child and what it started: they are one process group."""
    # PermissionError is what macOS answers for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _block(how):
    signal.pthread_sigmask(how, {signal.SIGTERM})


def _in_the_child():
    """Return what the child does first: on Linux, ask to be killed when this keeper is killed."""
    if not sys.platform.startswith("linux"):
        return lambda: _block(signal.SIG_UNBLOCK)
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: (_block(signal.SIG_UNBLOCK), prctl(_DEATH_SIGNAL, signal.SIGKILL))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
