"""Bringing a model to TensorFlow's converters: in this process, or in a child of it.

Keras has one backend a process. A model trained on JAX or torch is saved as a `.keras` file and
loaded in a child process on the TensorFlow backend; its custom objects travel with cloudpickle.
"""

import contextlib
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import keras

from kprune.export.errors import ExportError
from kprune.export.quiet import quiet

MODEL, JOB, RESULT, REFUSAL, LOG = "model.keras", "job.pickle", "result", "refusal", "log"


def convert(model, request):
    """Return the bytes of the file that `request` asks for, whatever the backend.

    Raises:
        ExportError: with the last lines of what the converter printed.
    """
    if keras.backend.backend() != "tensorflow":
        return _convert_in_child(model, request)
    from kprune.export import convert as here

    transcript = None
    try:
        with quiet() as transcript:
            return here.convert(model, request)
    except ExportError:
        raise
    except Exception as error:
        raise _failure(model, request, f"{type(error).__name__}: {error}", transcript) from error


def _failure(model, request, reason, transcript):
    printed = transcript.tail() if transcript else ""
    name = {"tflite": "TFLite", "onnx": "ONNX"}[request.format]
    lines = [line for line in reason.splitlines() if line.strip()]
    if len(lines) > 15:
        lines = [*lines[:10], "...", *lines[-5:]]
    return ExportError(
        f"The model '{model.name}' could not be converted to {name}"
        + (f" with quantize={request.quantize!r}" if request.quantize else "")
        + ". The converter says:\n"
        + "\n".join(lines)
        + (f"\nThe last it printed:\n{printed}" if printed else "")
    )


def _convert_in_child(model, request):
    with tempfile.TemporaryDirectory(prefix="kprune-") as folder:
        folder = Path(folder)
        objects, failures = _pack(model, request, folder)
        with open(folder / LOG, "wb") as log:
            code = subprocess.run(
                [sys.executable, "-m", "kprune.export._child", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                check=False,
            ).returncode
        if (folder / REFUSAL).exists():
            raise ExportError((folder / REFUSAL).read_text())
        if code or not (folder / RESULT).exists():
            raise _child_failure(model, request, code, folder, objects, failures)
        return (folder / RESULT).read_bytes()


def _environment():
    path = [os.path.abspath(entry) for entry in sys.path]
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }


def _pack(model, request, folder):
    """Write the model and everything needed to load it."""
    with quiet(), _custom_objects(model) as objects:
        try:
            model.save(folder / MODEL)
        except Exception as error:
            raise ExportError(
                f"The model '{model.name}' could not be saved for conversion: exporting from the "
                f"{keras.backend.backend()} backend goes through a `.keras` file that is loaded "
                f"on TensorFlow. {type(error).__name__}: {error}"
            ) from error
        objects, failures = _pickled(objects)
    job = {"request": request, "objects": objects}
    (folder / JOB).write_bytes(pickle.dumps(job))
    return objects, failures


def _child_failure(model, request, code, folder, objects, failures):
    printed = (folder / LOG).read_text(errors="replace").strip().splitlines()
    hint = ""
    if failures:
        hint = " These custom objects could not be sent along: " + "; ".join(
            f"{name} ({reason})" for name, reason in failures.items()
        )
    elif objects:
        hint = (
            " Custom objects were sent along ("
            + ", ".join(sorted(objects))
            + "): they must be written with `keras.ops`, restore from `get_config`, and be "
            "importable or defined where the model is built."
        )
    return ExportError(
        f"The model '{model.name}' could not be converted to {request.format} in a TensorFlow "
        f"process (exit code {code}).{hint} Its last lines:\n" + "\n".join(printed[-20:])
    )


@contextlib.contextmanager
def _custom_objects(model):
    """Collect the classes and functions of the model that Keras does not define, by name.

    A `.keras` file does not hold lambdas so that they could be loaded again; inside the block
    they have names, and so are saved like other functions.
    """
    found, lambdas = dict(keras.saving.get_custom_objects()), []
    for layer in model._flatten_layers():
        for value in [layer, *_attributes(layer)]:
            function = isinstance(value, types.FunctionType)
            if function and value.__name__ == "<lambda>":
                lambdas.append(value)
                value.__name__ = f"lambda_{len(lambdas)}"
            if function or hasattr(value, "get_config"):
                thing = value if function else type(value)
                found[thing.__name__] = thing
                found[keras.saving.get_registered_name(thing)] = thing
    try:
        yield {name: thing for name, thing in found.items() if not _is_known(thing)}
    finally:
        for function in lambdas:
            function.__name__ = "<lambda>"


def _attributes(layer):
    for value in vars(layer).values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _is_known(thing):
    return getattr(thing, "__module__", "").partition(".")[0] in ("keras", "kprune", "builtins")


def _pickled(objects):
    """Pickle objects one by one, by value where a fresh process could not import them."""
    import cloudpickle

    done, failures = {}, {}
    for name, thing in objects.items():
        with contextlib.ExitStack() as stack:
            module = sys.modules.get(getattr(thing, "__module__", None))
            if module is not None and not _importable(module.__name__):
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
            try:
                done[name] = cloudpickle.dumps(thing)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
    return done, failures


def _importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
