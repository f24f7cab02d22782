"""One file in its runtime, in a process of its own: `benchmark` starts one of these for each file.

A process for each file, because (a) a damaged file may take its runtime, and the process, down;
(b) thread counts are settled when a runtime starts; (c) one runtime's threads and allocator must
not disturb the next one's times. The package kprune is not imported, only the one file of
kprune/runtimes that is needed, so that Keras and its backend load only where a `.keras` file needs
them.

Protocol, one JSON a line. Configuration comes as the first argument. The worker answers
`{"runtime": ..., "version": ..., "shapes": ...}` once it has run the file, or `{"error": ...}`;
then, for each whole number n it reads, it runs the file n times and answers with n times in
seconds. If the configuration names a file to `record`, the first run's inputs and outputs are
written there. If it names one that is `like` what is expected, recorded in the file's own runtime,
the first run has those inputs, and other outputs are an error.
"""

import contextlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path


class Refused(Exception):
    """The file cannot be measured as asked; the message says why."""


# Of each runtime: its file in kprune/runtimes, the class in it, and the files that it reads.
RUNTIMES = {
    "keras": ("Keras", (".keras",)),
    "litert": ("LiteRT", (".tflite",)),
    "onnxruntime": ("OnnxRuntime", (".onnx",)),
    "openvino": ("OpenVINO", (".onnx", ".tflite")),
}
# The runtime that a file is made for.
OWN = {".keras": "keras", ".tflite": "litert", ".onnx": "onnxruntime"}

# Integer kernels round in their own ways, which moves outputs by some percent of their root mean
# square; this much apart, a file computes something else (as `verification.TOLERANCES`).
TOLERANCE = 0.25


def runtime(name):
    """Return the class of a runtime: from its own file, so that no package is imported."""
    cls, _ = RUNTIMES[name]
    path = Path(__file__).parents[1] / "runtimes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"kprune_runtimes_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, cls)


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


def concrete_shape(name, dims, config, given=None):
    """Fill in the dynamic (None) dimensions: the batch, those of `given`, and `free_dim`."""
    dims = list(dims)
    if dims and dims[0] is None:
        dims[0] = config["batch_size"]
    elif dims and dims[0] != config["batch_size"]:
        raise Refused(
            f"its input '{name}' has a fixed batch of {dims[0]}, not the {config['batch_size']} "
            "asked for; export it with batch_size=None to leave the batch free"
        )
    if given is not None:
        sizes = [dims[:1], *([size, other] for size, other in zip(dims[1:], given))]
        if len(given) != len(dims) - 1 or any(len({*pair} - {None}) > 1 for pair in sizes):
            raise Refused(
                f"its input '{name}' is of the sizes {tuple(dims[1:])} without the batch, which "
                f"`input_shape` does not fit. Received: {tuple(given)}"
            )
        dims[1:] = [other if size is None else size for size, other in zip(dims[1:], given)]
    if None in dims:
        if config["free_dim"] is None:
            raise Refused(
                f"its input '{name}' has dynamic dimensions, {tuple(dims)}; say with "
                "`input_shape`, or `free_dim`, which sizes to use for them"
            )
        dims = [config["free_dim"] if dim is None else dim for dim in dims]
    return dims


def random_feeds(inputs, config, rng):
    """Make {name: array} for the `inputs` of a runtime: {name: (dims, dtype, quantized)}."""
    feeds, given = {}, config.get("input_shape")
    if isinstance(given, list):
        if len(inputs) != 1:
            raise Refused(f"it takes {len(inputs)} inputs: give `input_shape` by name, as a dict")
        given = dict.fromkeys(inputs, given)
    unknown = [name for name in given or () if name not in inputs]
    if unknown:
        raise Refused(f"it has no inputs named {unknown}, as in `input_shape`, but {list(inputs)}")
    for name, (dims, dtype, quantized) in inputs.items():
        shape = concrete_shape(name, dims, config, (given or {}).get(name))
        feeds[name] = random_input(shape, dtype, rng, quantized)
    return feeds


def keras_feeds(spec, config, rng):
    """Make what `predict_on_batch` takes: arrays, structured as the configured `inputs` are."""
    if isinstance(spec, dict) and "dtype" in spec:
        return random_input(concrete_shape(spec["name"], spec["shape"], config), spec["dtype"], rng)
    if isinstance(spec, dict):
        return {key: keras_feeds(value, config, rng) for key, value in spec.items()}
    return [keras_feeds(value, config, rng) for value in spec]


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


def recorded(path):
    """Return the (inputs, outputs) that `record` wrote, {name: array} both."""
    import numpy as np

    with np.load(path) as arrays:
        return tuple(
            {str(name): arrays[f"{kind}_{i}"] for i, name in enumerate(arrays[f"{kind}_names"])}
            for kind in ("input", "output")
        )


def check_outputs(expected, outputs, where):
    """Refuse outputs that are not what the file's own runtime computes."""
    import numpy as np

    for name, a in expected.items():
        b = outputs.get(name)
        if b is None or a.shape != b.shape:
            raise Refused(f"{where} has no output '{name}' of shape {a.shape}")
        a, b = a.astype("float64"), b.astype("float64")
        scale = max(np.sqrt(np.mean(a**2)), 1e-6) if a.size else 1.0
        apart = np.sqrt(np.mean((a - b) ** 2)) / scale if a.size else 0.0
        if not apart <= TOLERANCE:  # NaN is not, either.
            raise Refused(
                f"{where} computes something else than the file's own runtime: the relative root "
                f"mean square of the differences in '{name}' is {apart:.2g}. Its latency would say "
                "nothing. Where that depends on the number of threads, try another"
            )


def seconds(run, times):
    """Call `run` so often; return the seconds that each call took."""
    result = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        result.append(time.perf_counter() - start)
    return result


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
        loaded = runtime(config.get("runtime") or OWN[kind])(config["path"], config["threads"])
        rng, expected = np.random.default_rng(config["seed"]), None
        if config.get("like"):
            feeds, expected = recorded(config["like"])
        elif kind == ".keras":
            feeds = keras_feeds(config["inputs"], config, rng)
        else:
            feeds = random_feeds(loaded.inputs, config, rng)
        loaded.prepare(feeds)
        outputs = loaded.run()
        if expected is not None:
            check_outputs(expected, outputs, loaded.name)
        if config.get("record"):
            record(config["record"], feeds, outputs)
    except ImportError as error:
        return answer({"missing": error.name or str(error)})
    except Refused as error:
        return answer({"error": str(error)})
    except Exception as error:  # each runtime has its own classes for a file it cannot read
        return answer({"error": f"{type(error).__name__}: {error}"})
    shapes = {} if kind == ".keras" else {name: feed.shape for name, feed in feeds.items()}
    answer({"runtime": loaded.name, "version": loaded.version, "shapes": shapes})
    for line in sys.stdin:
        answer(seconds(loaded.run, int(line)))


if __name__ == "__main__":
    main()
