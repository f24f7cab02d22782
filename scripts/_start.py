"""What the scripts do first."""

import logging
import os


def start():
    """Import kprune and run a first operation, while what the libraries print is kept away.

    The backends write to file descriptor 2 when they are imported and when they find their
    devices, before any setting of theirs is read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes it for a mistake that several models are trained.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import keras

        import kprune  # noqa: F401

        keras.ops.convert_to_numpy(keras.ops.zeros(1))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
