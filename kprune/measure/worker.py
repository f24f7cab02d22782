"""One file in its runtime, in a process of its own: `benchmark` starts one of these for each file.

A process for each file, because (a) a damaged file may take its runtime, and the process, down;
(b) thread counts are settled when a runtime starts; (c) one runtime's threads and allocator must
not disturb the next one's times. Nothing of kprune is imported, so that Keras and its backend
load only where a `.keras` file needs them.

Protocol, one JSON a line. Configuration comes as the first argument. The worker answers
`{"runtime": ..., "version": ...}` once it has run the file, or `{"error": ...}`; then, for each
whole number n it reads, it runs the file n times and answers with n times in seconds. If the
configuration names a file to `record`, the first run's inputs and outputs are written there.
"""

import contextlib
import json
import os
import sys
import time
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path


class Refused(Exception):
    """The file cannot be measured as asked; the message says why."""


# What a loader returns: `run()` runs the file on `feeds`, {name: array}, and returns its outputs,
# {name: array}; of a Keras model both are as it takes and gives them.
Loaded = namedtuple("Loaded", "run runtime version feeds")


def random_input(shape, dtype, rng, quantized=False):
    """Make an input of the given shape (ints) and NumPy dtype: normal noise, or small ids."""
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        if quantized:
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max + 1, shape, dtype=dtype)
        # 0 and 1 are in every vocabulary, whatever the integers stand for.
        return rng.integers(0, 2, shape).astype(dtype)
    if np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16":
        return rng.standard_normal(shape).astype(dtype)
    raise Refused(f"it takes an input of dtype {dtype}, and no random one can be made")


def concrete_shape(name, dims, batch_size, free_dim):
    """Fill in the free (None) dimensions: the first is the batch, `free_dim` is for the others."""
    dims = list(dims)
    if dims and dims[0] is None:
        dims[0] = batch_size
    elif dims and dims[0] != batch_size:
        raise Refused(
            f"its input '{name}' has a fixed batch of {dims[0]}, not the {batch_size} asked for; "
            "export it with batch_size=None to leave the batch free"
        )
    if None in dims:
        if free_dim is None:
            raise Refused(
                f"its input '{name}' leaves dimensions free, {tuple(dims)}; say with `free_dim` "
                "which size to use for them"
            )
        dims = [free_dim if dim is None else dim for dim in dims]
    return dims


def load_tflite(config, rng):
    """LiteRT: input copied in, invoke, output copied out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=config["path"], num_threads=config["threads"])
    inputs, outputs = _tensors(interpreter)
    feeds = {}
    for name, detail in inputs.items():
        index, signature = detail["index"], detail["shape_signature"]
        dims = [None if d < 0 else int(d) for d in signature]
        shape = concrete_shape(name, dims, config["batch_size"], config["free_dim"])
        quantized = bool(detail["quantization_parameters"]["scales"].size)
        if None in dims:
            interpreter.resize_tensor_input(index, shape, strict=True)
        feeds[name] = random_input(shape, detail["dtype"], rng, quantized)
    interpreter.allocate_tensors()

    def run():
        for name, value in feeds.items():
            interpreter.set_tensor(inputs[name]["index"], value)
        interpreter.invoke()
        return {name: interpreter.get_tensor(out["index"]) for name, out in outputs.items()}

    return Loaded(run, "LiteRT", version("ai-edge-litert"), feeds)


def _tensors(interpreter):
    """Return the details of the inputs and of the outputs, by their names in the signature."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        named = runner.get_input_details(), runner.get_output_details()
        of_the_graph = [{d["index"] for d in details} for details in (inputs, outputs)]
        if [{d["index"] for d in details.values()} for details in named] == of_the_graph:
            return named
    return {d["name"]: d for d in inputs}, {d["name"]: d for d in outputs}


def load_onnx(config, rng):
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        config["path"], options, providers=["CPUExecutionProvider"]
    )
    dtypes = {"float": "float32", "double": "float64"}
    feeds = {}
    for node in session.get_inputs():
        dtype = node.type.removeprefix("tensor(").removesuffix(")")
        dims = [d if isinstance(d, int) and d > 0 else None for d in node.shape]
        shape = concrete_shape(node.name, dims, config["batch_size"], config["free_dim"])
        feeds[node.name] = random_input(shape, dtypes.get(dtype, dtype), rng)

    outputs = [node.name for node in session.get_outputs()]

    def run():
        return dict(zip(outputs, session.run(outputs, feeds)))

    return Loaded(run, "ONNX Runtime", onnxruntime.__version__, feeds)


def load_keras(config, rng):
    """Keras' own compiled `predict_on_batch`."""
    if os.environ.get("KERAS_BACKEND") == "jax" and hasattr(os, "sched_setaffinity"):
        # XLA's CPU client sizes its thread pool by the processors it may use, and by nothing else.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config["threads"]])
    import keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(config["threads"])
    model = keras.models.load_model(config["path"], compile=False)

    def make(spec):
        if isinstance(spec, dict) and "dtype" in spec:
            shape = concrete_shape(
                spec["name"], spec["shape"], config["batch_size"], config["free_dim"]
            )
            return random_input(shape, spec["dtype"], rng)
        if isinstance(spec, dict):
            return {key: make(value) for key, value in spec.items()}
        return [make(value) for value in spec]

    x = make(config["inputs"])

    def run():
        return model.predict_on_batch(x)

    return Loaded(run, f"Keras ({keras.backend.backend()})", keras.__version__, x)


LOADERS = {".keras": load_keras, ".tflite": load_tflite, ".onnx": load_onnx}


def limit_memory():
    """Let a file that claims more memory than is free fail, and not the machine (on Linux)."""
    try:
        import resource

        lines = Path("/proc/meminfo").read_text().splitlines()
    except (ImportError, OSError):
        return
    facts = dict(line.split(":", 1) for line in lines)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no container, or none with a limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Libraries and the stacks of threads are addresses more than memory.
    resource.setrlimit(resource.RLIMIT_AS, (free + 2**31, hard))


def record(path, feeds, outputs):
    """Write inputs and outputs to a `.npz` file: `input_0`, ... and their names, outputs alike."""
    import numpy as np

    arrays = {}
    for kind, values in (("input", feeds), ("output", outputs)):
        arrays[f"{kind}_names"] = np.array(list(values), "U")
        arrays |= {f"{kind}_{i}": value for i, value in enumerate(values.values())}
    np.savez(path, **arrays)


def main():
    """Load the file that the first argument describes, then run it as often as told."""
    # Libraries print to standard output, from C++ too: give them standard error, and keep the
    # real one for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    config = json.loads(sys.argv[1])
    try:
        import numpy as np

        kind = os.path.splitext(config["path"])[1]
        if kind != ".keras":  # Keras' backends reserve many more addresses than they use.
            limit_memory()
        load = LOADERS[kind]
        loaded = load(config, np.random.default_rng(config["seed"]))
        outputs = loaded.run()
        if config.get("record"):
            record(config["record"], loaded.feeds, outputs)
    except ImportError as error:
        return answer({"missing": error.name or str(error)})
    except Refused as error:
        return answer({"error": str(error)})
    except Exception as error:  # each runtime has its own classes for a file it cannot read
        return answer({"error": f"{type(error).__name__}: {error}"})
    answer({"runtime": loaded.runtime, "version": loaded.version})
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loaded.run()
            times.append(time.perf_counter() - start)
        answer(times)


if __name__ == "__main__":
    main()
