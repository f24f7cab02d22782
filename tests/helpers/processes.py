"""Whether other processes run, and waiting for them."""

import os
import time
from pathlib import Path


def wait_until(condition):
    """Poll with a generous deadline: machines that run tests are busy."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie that nobody waits for, as where process 1 does not, has ended, too.
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # It is gone now, or there is no /proc.
        return Path("/proc/self/stat").exists()
    return status == "Z"
