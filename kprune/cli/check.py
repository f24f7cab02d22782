"""`kprune check`."""

from pathlib import Path
from typing import Annotated

import typer

from kprune.cli import common
from kprune.cli.common import InputShape, Json, check_json, plain_errors, show


def check(
    file: Annotated[Path, typer.Argument(help="A .keras, .tflite or .onnx file.")],
    target: Annotated[
        str,
        typer.Option(help="Such as litert-arm64; a wrong one lists those there are."),
    ],
    input_shape: InputShape = None,
    json: Json = None,
):
    """Say layer by layer what a target can make of a model's zeros; exit 2 if it is not fit."""
    with plain_errors():
        import kprune.targets

        check_json(json)
        report = kprune.targets.check(file, target, common.input_shape(input_shape))
        show(report, json)
    if not report.ok:
        raise typer.Exit(2)
