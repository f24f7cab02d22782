"""Bringing a model to TensorFlow's converters: in this process, or in a child of it.

Keras has one backend a process. A model trained on JAX or torch is saved as a `.keras` file and
loaded in a child process on the TensorFlow backend; its custom objects travel with cloudpickle.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import keras

from kprune._system import children, files
from kprune._system.errors import ExportError
from kprune._system.quiet import quiet
from kprune._system.workplace import whole_folder, workplace
from kprune.export import custom_objects
from kprune.graphs.sizes import in_words

MODEL, PATH, JOB = "model.keras", "path.json", "job.pickle"
RESULT, REFUSAL, LOG = "result", "refusal", "log"


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


def advice(request):
    """What may help a file with dynamic dimensions: a sentence, and a space; empty without any."""
    dynamic = in_words(request.signature.arguments)
    if not dynamic:
        return ""
    return f"Fixed sizes may help: give `input_shape=` for {dynamic}. "


def _failure(model, request, reason, transcript):
    printed = transcript.tail() if transcript else ""
    name = {"tflite": "TFLite", "onnx": "ONNX"}[request.format]
    lines = [line for line in reason.splitlines() if line.strip()]
    if len(lines) > 15:
        lines = [*lines[:10], "...", *lines[-5:]]
    return ExportError(
        f"The model '{model.name}' could not be converted to {name}"
        + (f" with quantize={request.quantize!r}" if request.quantize else "")
        + f". {advice(request)}The converter says:\n"
        + "\n".join(lines)
        + (f"\nThe last it printed:\n{printed}" if printed else "")
    )


def _convert_in_child(model, request):
    with workplace() as folder:
        parcel = _pack(model, request, folder)
        with open(folder / LOG, "wb") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            options |= {"env": _environment(folder), "folder": whole_folder()}
            with children.child(_command(folder), **options) as process:
                code = process.wait()
        if (folder / REFUSAL).exists():
            raise ExportError((folder / REFUSAL).read_text())
        if code or not (folder / RESULT).exists():
            raise _child_failure(model, request, code, folder, parcel)
        return (folder / RESULT).read_bytes()


def _command(folder):
    program = Path(__file__).parent / "_child.py"
    return [sys.executable, *children.python_flags(), str(program), str(folder)]


def _environment(folder):
    """Let the child run Keras on TensorFlow and the CPU, and keep its files to its own folder."""
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TMPDIR": str(folder),
    }


def _pack(model, request, folder):
    """Write the model and everything needed to load it; return the `Parcel` of custom objects."""
    with quiet(), custom_objects.named_apart(model) as objects:
        try:
            model.save(folder / MODEL)
        except Exception as error:
            raise ExportError(
                f"The model '{model.name}' could not be saved for conversion: exporting from the "
                f"{keras.backend.backend()} backend goes through a `.keras` file that is loaded "
                f"on TensorFlow. {type(error).__name__}: {error}"
            ) from error
        parcel = custom_objects.packed(objects)
    job = {"request": request, "parcel": parcel}
    files.write(folder / PATH, json.dumps(_import_path()).encode(), folder / PATH)
    files.write(folder / JOB, pickle.dumps(job), folder / JOB)
    return parcel


def _import_path():
    """What this process imports from, and in which order: the child imports from nowhere else."""
    return [os.path.abspath(entry) for entry in sys.path]


def _child_failure(model, request, code, folder, parcel):
    printed = (folder / LOG).read_text(errors="replace").strip().splitlines()
    hint = ""
    if parcel.failures:
        failures = (f"{name} ({reason})" for name, reason in parcel.failures.items())
        hint = f"These custom objects could not be sent along: {'; '.join(failures)} "
    elif parcel.names:
        hint = (
            "Custom objects were sent along ("
            + ", ".join(sorted(name for name in parcel.names if ">" not in name))
            + "): they must be written with `keras.ops`, restore from `get_config`, and be "
            "importable or defined where the model is built. "
        )
    return ExportError(
        f"The model '{model.name}' could not be converted to {request.format} in a TensorFlow "
        f"process (exit code {code}). {advice(request)}{hint}Its last lines:\n"
        + "\n".join(printed[-20:])
    )
