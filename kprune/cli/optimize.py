"""`kprune optimize`."""

from pathlib import Path
from typing import Annotated

import typer

from kprune.cli.common import Json, KerasFile, check_json, npz_arrays, plain_errors, show


def optimize(
    file: KerasFile,
    target: Annotated[
        str,
        typer.Option(help="Such as litert-arm64; a wrong one lists those there are."),
    ],
    data: Annotated[
        Path,
        typer.Option(help="A .npz file of inputs; --labels names classes in it."),
    ],
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How much accuracy (or agreement) may be lost.",
            show_default="0.01 without a budget",
        ),
    ] = None,
    latency: Annotated[
        float | None, typer.Option(help="Share of the dense file's latency to come down to.")
    ] = None,
    size: Annotated[
        float | None, typer.Option(help="Share of its gzipped bytes to come down to.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Name of the array of classes.", show_default="agreement is judged"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what comes out.")] = Path("optimized"),
    rounds: Annotated[int, typer.Option(min=1, help="The most there may be.")] = 12,
    examples: Annotated[int, typer.Option(min=2, help="How many of the data to use.")] = 1024,
    json: Json = None,
):
    """Search for the fastest file of a trained model, without training.

    Example: kprune optimize model.keras --target litert-wasm --data calibration.npz
    """
    with plain_errors():
        from kprune.graphs.load import load_keras
        from kprune.search import optimize as run

        check_json(json)
        model = load_keras(file)
        found = npz_arrays(data, model, examples, labels)
        result = run(
            model, target, max_drop=max_drop, latency=latency, size=size, data=found, out=out,
            rounds=rounds,
        )  # fmt: skip
        show(result, json)
