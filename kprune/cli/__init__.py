"""The `kprune` command: benchmark, sparsity, flops, check, demo."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Pruning for Keras 3: smaller and faster files, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Json = Annotated[Path | None, typer.Option("--json", help="Also write everything as JSON here.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a run.")]
FreeDim = Annotated[
    int | None,
    typer.Option(min=1, help="Size of the dimensions that the model leaves free (not the batch)."),
]
KerasFile = Annotated[Path, typer.Argument(help="A .keras file.")]


@contextlib.contextmanager
def plain_errors():
    """Turn the errors that bad input causes into one line on standard error and exit status 1."""
    from kprune.export import ExportError

    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, ExportError) as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None


def check_json(path):
    """Raise before the work what would keep its result from being written; None is no path."""
    from kprune._system.files import destination

    if path:
        destination(path, ".json")


def show(report, json=None):
    """Print a report; write it as JSON, too, where a path is given."""
    from kprune.report.files import write_json

    console = Console()
    console.print(report) if console.is_terminal else print(report)
    if json:
        write_json(json, report.to_dict())


@app.command()
def benchmark(
    files: Annotated[list[Path], typer.Argument(help=".keras, .tflite and .onnx files.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads each runtime may use.")] = 1,
    batch_size: BatchSize = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Visits to every file.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first round.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the inputs and of the order of visits.")] = 0,
    free_dim: FreeDim = None,
    timeout: Annotated[float, typer.Option(help="Seconds to load a file, or visit it.")] = 300.0,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw a .png, .svg or .pdf here.")] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="A .json of the same files on another machine, to show beside."),
    ] = None,
):
    """Measure latency and size of model files side by side, each in its real runtime."""
    with plain_errors():
        import kprune.measure
        from kprune.measure.compare import Comparison, read_report
        from kprune.report import plots

        check_json(json)
        if plot:
            plots.check(plot)
        other = compare and read_report(compare)
        report = kprune.measure.benchmark(
            files, threads, batch_size, rounds, warmup, seed, free_dim, timeout
        )
        show(report, json)
        if plot:
            report.plot(plot)
        if other:
            print()
            show(Comparison(report.to_dict(), other))


@app.command()
def sparsity(file: KerasFile, json: Json = None):
    """Show what is zero in a model, layer by layer, and what can be pruned."""
    with plain_errors():
        import kprune.measure

        check_json(json)
        show(kprune.measure.sparsity(file), json)


@app.command()
def flops(file: KerasFile, batch_size: BatchSize = 1, free_dim: FreeDim = None, json: Json = None):
    """Count the floating-point operations of one run, layer by layer."""
    with plain_errors():
        import kprune.measure

        check_json(json)
        show(kprune.measure.flops(file, batch_size, free_dim), json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A .keras, .tflite or .onnx file.")],
    target: Annotated[
        str,
        typer.Option(help="litert-arm64, litert-x86, litert-wasm or onnxruntime."),
    ],
    json: Json = None,
):
    """Say layer by layer what a target can make of a model's zeros; exit 2 if it is not fit."""
    with plain_errors():
        import kprune.export

        check_json(json)
        report = kprune.export.check(file, target)
        show(report, json)
    if not report.ok:
        raise typer.Exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for what comes out.")] = Path("kprune-demo"),
    sparsity: Annotated[float, typer.Option(help="Share of zeros to prune to, in [0, 1).")] = 0.9,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of each training.", show_default="by the data")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            help="An .npz with x_train, y_train, x_test, y_test: images and classes.",
            show_default="scikit-learn's digits",
        ),
    ] = None,
):
    """Train a small CNN dense and pruned, export both, and measure them side by side."""
    with plain_errors():
        from kprune.cli.demo import demo as run_demo

        show(run_demo(out, sparsity, epochs, seed, data))
        print(f"\nThe files are in {out}{os.sep}; the figures in demo.json and demo.png there.")
