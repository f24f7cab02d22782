"""`kprune demo`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kprune.cli.common import plain_errors, show


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
        from kprune.demo import demo as run

        show(run(out, sparsity, epochs, seed, data))
        print(f"\nThe files are in {out}{os.sep}; the figures in demo.json and demo.png there.")
