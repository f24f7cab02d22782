"""Starts the `kprune` command.

It stands beside the package because importing anything of the package imports Keras, and
with it TensorFlow, which prints its banners to file descriptor 2 whatever its settings
say. They are shown only if the start fails.
"""

import os
import sys
import tempfile


def main():
    """Import the package in silence, then run its command line."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            from kprune.cli import app
        except BaseException:
            printed.seek(0)
            os.write(stderr, printed.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
    app()
