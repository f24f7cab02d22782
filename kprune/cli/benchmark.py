"""`kprune benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from kprune.cli import common
from kprune.cli.common import BatchSize, FreeDim, InputShape, Json, check_json, plain_errors, show


def benchmark(
    files: Annotated[list[Path], typer.Argument(help=".keras, .tflite and .onnx files.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads each runtime may use.")] = 1,
    batch_size: BatchSize = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Visits to every file.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first round.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the inputs and of the order of visits.")] = 0,
    free_dim: FreeDim = None,
    input_shape: InputShape = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="keras, litert, onnxruntime or openvino; more than one: side by side."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to load a file, or visit it.")] = 300.0,
    target: Annotated[
        str | None,
        typer.Option(help="An Ethos-U, as ethos-u55-128: Vela's estimates of int8 .tflite files."),
    ] = None,
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
        sizes = common.input_shape(input_shape)
        report = kprune.measure.benchmark(
            files, threads, batch_size, rounds, warmup, seed, free_dim, timeout, sizes,
            runtime or None, target,
        )  # fmt: skip
        show(report, json)
        if plot:
            report.plot(plot)
        if other:
            print()
            show(Comparison(report.to_dict(), other))
