"""What the verbs have in common: options, errors in one line, and how a report is shown."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Json = Annotated[Path | None, typer.Option("--json", help="Also write everything as JSON here.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a run.")]
FreeDim = Annotated[
    int | None,
    typer.Option(min=1, help="Size of the dynamic dimensions (not the batch)."),
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
