"""Does each model of the examples and the results run on each target? A table, in Markdown.

    python scripts/try_targets.py --output docs/targets.md
    python scripts/try_targets.py --model resnet --target tflm

Each model (random weights, 80% zeros by magnitude) is exported for each target: in float32, or in
8 bits where the target runs nothing else (whatever rounding does to random weights), and run in
the target's runtime where there is one on this machine. A cell says what the file did, or why there
is none; anything but a refusal that kprune gives itself is called a FAULT, and the script then ends
with an error.
"""

import importlib.util
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _start import start

ROOT = Path(__file__).parents[1]
TARGETS = [
    "litert-arm64",
    "litert-x86",
    "litert-wasm",
    "onnxruntime",
    "openvino",
    "tflm",
    "ethos-u55-128",
    "ethos-u65-256",
    "ethos-u85-256",
]
SPARSITY, SAMPLES = 0.8, 64


def builders():
    """Return {name: function to the model}, of the examples and of scripts."""
    make, latency = (
        _module("scripts/reproduce_optimize.py"),
        _module("scripts/reproduce_latency.py"),
    )
    examples = {
        name: _module(f"examples/{name}.py").build
        for name in ("distillation", "early_stopping", "half_latency", "optimize", "prune_once")
    }
    return {
        **examples,
        "which_weights": _module("examples/which_weights.py").build,
        "gan, generator": _module("examples/gan.py").build_generator,
        "transformer": lambda: _module("examples/transformer.py").build(1000),
        "results: LeNet-300-100": lambda: _lenet("lenet-300-100"),
        "results: LeNet-5": lambda: _lenet("lenet-5"),
        "results: MobileNet": lambda: make.build("mobilenet", (96, 96, 3), "gru"),
        "results: MobileNetV2": lambda: make.build("mobilenetv2", (96, 96, 3), "gru"),
        "results: speech, GRU": lambda: make.build("speech", (25, 12), "gru"),
        "results: speech, LSTM": lambda: make.build("speech", (25, 12), "lstm"),
        "results: ResNet": latency.resnet,
        "results: Transformer encoder": latency.transformer,
    }


def _lenet(name):
    return _module("scripts/reproduce_mnist.py").build(name, 0.0)


def _module(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples_for(model):
    """Return random inputs: ids where the model takes ids."""
    rng = np.random.default_rng(0)
    shape = (SAMPLES, *(size or 32 for size in model.inputs[0].shape[1:]))
    if "int" in model.inputs[0].dtype:
        return rng.integers(0, 1000, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def tried(model, target, x, folder):
    """Export a model for a target, and run it there; return what came of it, in words."""
    import kprune

    target = kprune.targets.TARGETS[target]
    found = ""
    for format in target.formats:
        try:
            return _ran(*_exported(model, target, format, x, folder), target)
        except (ValueError, kprune.export.ExportError) as error:
            found = found or f"refused: {error}".replace(f"{folder}/", "").split("\n")[0]
        except Exception as error:  # what nobody expects is what this looks for
            return f"FAULT: {type(error).__name__}: {str(error).splitlines()[0]}"
    return found


def _exported(model, target, format, x, folder):
    """Return (path, quantize) of the model's file."""
    import kprune

    path, quantize = folder / f"model.{format}", target.own_quantize
    if format == "onnx":
        kprune.export_onnx(model, path, inputs=x[:4])
        return path, None
    options = {"inputs": x[:4]} if quantize is None else {"tolerance": 1.0}  # random weights
    kprune.export_tflite(model, path, quantize, x, target=target.name, **options)
    return path, quantize


def _ran(path, quantize, target):
    import kprune

    how = f"{quantize or 'float32'}, {path.suffix}"
    if target.name == "litert-wasm":
        row = kprune.measure.benchmark_web(path, rounds=1, warmup=0).rows[0]
        return f"FAULT: {row.reason}" if row.reason else f"runs ({how})"
    if target.name == "openvino":
        kprune.benchmark(path, rounds=1, warmup=0, runtimes="openvino")
    if target.name == "litert-arm64" and platform.machine() not in ("arm64", "aarch64"):
        report = kprune.check(path, target)
        return f"fit for it, not run here ({how})" if report.ok else "FAULT: not fit for it"
    return f"compiled ({how})" if target.compressed else f"runs ({how})"


def main(
    model: Annotated[list[str] | None, typer.Option(help="Parts of names.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="All by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="A .md file for the table.")] = None,
):
    """Export every model for every target."""
    start()
    import keras

    import kprune

    warnings.simplefilter("ignore", kprune.export.NotFasterWarning)
    rows, targets = [], target or TARGETS
    for name, build in builders().items():
        if model and not any(part in name for part in model):
            continue
        keras.utils.set_random_seed(0)
        made = build()
        x = examples_for(made)
        kprune.prune_once(made, SPARSITY, x, method="magnitude")
        found = {}
        for one in targets:
            with tempfile.TemporaryDirectory() as folder:
                found[one] = tried(made, one, x, Path(folder))
            typer.echo(f"{name}, {one}: {found[one]}", err=True)
        rows.append((name, found))
        keras.backend.clear_session()
        if output:
            output.write_text(_page(rows, targets))
    typer.echo(_page(rows, targets))
    if any(cell.startswith("FAULT") for _, found in rows for cell in found.values()):
        raise typer.Exit(1)


def _page(rows, targets):
    notes, lines = [], []
    for name, found in rows:
        cells = []
        for one in targets:
            words = found[one]
            if ": " in words:
                if words not in notes:
                    notes.append(words)
                words = f"{words.split(': ')[0]} [{notes.index(words) + 1}]"
            cells.append(words)
        lines.append(f"| {' | '.join([name, *cells])} |")
    head = [f"| {' | '.join(['model', *targets])} |", f"|{' --- |' * (len(targets) + 1)}"]
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    text = __doc__.split("\n\n")[2].replace("\n", " ").strip()
    title = "# Every model on every target"
    made = "Made with:\n\n    python scripts/try_targets.py"
    return "\n\n".join([title, text, "\n".join([*head, *lines]), "\n".join(numbered), made]) + "\n"


if __name__ == "__main__":
    typer.run(main)
