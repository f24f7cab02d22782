"""The same surroundings for every test, wherever it runs, and nothing left behind by any."""

import atexit
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings

# Before Keras is imported; child processes inherit it. Neither the settings, the terminal nor
# the GPU of whoever runs the tests decide what they see.
for _name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS"):
    os.environ.pop(_name, None)
_KERAS_HOME = tempfile.mkdtemp(prefix="kprune-tests-")
atexit.register(shutil.rmtree, _KERAS_HOME, ignore_errors=True)
os.environ["KERAS_HOME"] = _KERAS_HOME
for _name, _value in {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    # One thread each: sums are cut in the same parts on any machine, and workers do not wait
    # for each other's threads.
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    # Small models: compiled quickly, rather than well.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}.items():
    os.environ.setdefault(_name, _value)

import hypothesis
import keras
import pytest

# The same examples in every run; no deadlines, as machines are busy.
hypothesis.settings.register_profile("kprune", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kprune")


def _file_of(descriptor):
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _state():
    """Name -> value of what belongs to the whole process, and to no test."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    state = {
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "file descriptor 1": _file_of(1),
        "file descriptor 2": _file_of(2),
        "sys.path": list(sys.path),
        "sys.excepthook": sys.excepthook,
        "os.environ": environment,
        "the current folder": os.getcwd(),
        "logging.disable": logging.root.manager.disable,
        "warnings.showwarning": warnings.showwarning,
        "the handler of SIGINT": signal.getsignal(signal.SIGINT),
        "the handler of SIGTERM": signal.getsignal(signal.SIGTERM),
        "keras.config.floatx": keras.config.floatx(),
        "keras.config.image_data_format": keras.config.image_data_format(),
        "keras.distribution": keras.distribution.distribution(),
    }
    if tensorflow := sys.modules.get("tensorflow"):
        state["tf.function"] = tensorflow.function
        state["eager tf.function"] = tensorflow.config.functions_run_eagerly()
    return state


@pytest.fixture(autouse=True)
def _alone():
    """Give each test the same seed, and fail it if it leaves the process changed."""
    keras.utils.set_random_seed(0)
    before = _state()
    yield
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session(free_memory=False)
    after = _state()
    changed = [name for name, value in before.items() if after[name] != value]
    assert not changed, {name: (before[name], after[name]) for name in changed}


@pytest.hookimpl(tryfirst=True)  # Before `-m` chooses.
def pytest_collection_modifyitems(config, items):
    """Refuse names that differ from process to process, and say which cases are slow."""
    changing = [item.nodeid for item in items if re.search(r" at 0x|{[^:]+,[^:]+}", item.nodeid)]
    if changing:  # With xdist, no test would run.
        raise pytest.UsageError(f"Give these tests ids that do not change: {changing}")
    fast = [(item, item.get_closest_marker("fast_for")) for item in items]
    fast = [(item, marker.args) for item, marker in fast if marker]
    for item, cases in fast:
        if item.callspec.id not in cases:
            item.add_marker("slow")
    if not any("::" in argument for argument in config.args):
        there = {(item.originalname, item.callspec.id) for item, _ in fast}
        named = {(item.originalname, case) for item, cases in fast for case in cases}
        if named - there and keras.backend.backend() == "tensorflow":
            raise pytest.UsageError(f"`fast_for` names what is not there: {named - there}")


def _missing_is_a_failure(report):
    """Where everything must be there, as in CI, tests of a package that is not fail."""
    if report.skipped and os.environ.get("KPRUNE_REQUIRE_ALL"):
        *_, reason = report.longrepr
        if "could not import" in reason:
            report.outcome, report.longrepr = "failed", f"{reason} (KPRUNE_REQUIRE_ALL is set)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return _missing_is_a_failure((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _missing_is_a_failure((yield))
