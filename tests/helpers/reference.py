"""TFMOT, to compare with."""

import os
import sys

import pytest


def tfmot():
    """Return TFMOT, or skip the test; what importing it does to the process is undone."""
    environment, path = dict(os.environ), list(sys.path)
    try:
        pytest.importorskip("tf_keras")
        return pytest.importorskip("tensorflow_model_optimization")
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
