"""Exports take turns, and leave the process as it was."""

import logging
import os
import sys
import tempfile
import threading
import warnings

import keras
import pytest

from kprune._system.quiet import quiet
from kprune._system.workplace import workplace
from kprune.export import export_tflite
from tests.helpers.runtimes import SKIP, needs_tensorflow
from tests.helpers.zoo import ZOO


def in_threads(*functions):
    """Run functions at once; raise the first error of theirs."""
    errors, barrier = [], threading.Barrier(len(functions))

    def run(function):
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def state():
    """What exports change for the whole process."""
    descriptors = [(os.fstat(n).st_dev, os.fstat(n).st_ino) for n in (1, 2)]
    streams = [(stream, stream.closed) for stream in (sys.stdout, sys.stderr)]
    functions = [tempfile.gettempdir, tempfile.tempdir]
    if "tensorflow" in sys.modules:
        functions += [sys.modules["tensorflow"].function]
    loggers = [logging.root.manager.disable, list(warnings.filters)]
    return descriptors, streams, functions, loggers


@pytest.mark.slow
@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_two_exports_at_once_leave_everything_as_it_was(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    models = [ZOO["mlp"](), ZOO["cnn"]()]
    export_tflite(models[0], tmp_path / "first.tflite")  # libraries set themselves up
    policies = [[layer.dtype_policy for layer in model.layers] for model in models]
    before = state()
    # The same model twice, and another one.
    in_threads(
        *(
            lambda i=i: export_tflite(models[i // 2], tmp_path / f"{i}.tflite", sparse=False)
            for i in range(3)
        )
    )
    assert state() == before
    assert [[layer.dtype_policy for layer in model.layers] for model in models] == policies
    assert (tmp_path / "0.tflite").read_bytes() == (tmp_path / "1.tflite").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_functions_of_other_threads_keep_jit_compile():
    import tensorflow as tf

    from kprune.export.convert import _convertible

    made = {}

    def make(name):
        made[name] = tf.function(lambda x: x, jit_compile=True)

    with _convertible(ZOO["mlp"]()):
        make("own")
        in_threads(lambda: make("other"))
    assert made["other"]._jit_compile is True
    assert made["own"]._jit_compile is None


def test_output_of_two_threads_is_captured_apart_and_restored():
    before, texts = state(), {}

    def capture(name):
        for _ in range(50):
            with quiet() as transcript:
                print(name)
                os.write(1, f"{name} from C\n".encode())
            texts.setdefault(transcript.text, []).append(name)

    in_threads(lambda: capture("a"), lambda: capture("b"))
    assert state() == before
    assert texts == {f"{name}\n{name} from C\n": [name] * 50 for name in "ab"}


def test_a_stream_that_somebody_kept_goes_on_printing(capfd):
    with quiet() as transcript:
        kept = logging.StreamHandler(sys.stderr)
        kept.stream.write("inside\n")
        assert kept.stream.fileno() >= 0
    kept.emit(logging.makeLogRecord({"msg": "outside"}))
    assert transcript.text == "inside\n"
    assert capfd.readouterr().err == "outside\n"


def test_libraries_temporary_files_go_with_the_folder_and_those_of_other_threads_stay():
    made = {}

    def make(name):
        made[name] = tempfile.mkdtemp()

    with workplace() as folder:
        make("own")
        in_threads(lambda: make("other"))
        with workplace() as inside:
            assert inside.parent == folder
        assert not inside.exists()
        assert folder.exists()
    assert os.path.dirname(made["own"]) == str(folder)
    assert not os.path.exists(made["own"])
    assert os.path.isdir(made["other"])
    os.rmdir(made["other"])
