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
InputShape = Annotated[
    list[str] | None,
    typer.Option(help="Sizes of an input without the batch: 224,224,3 or NAME=224,224,3."),
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


def input_shape(options):
    """Return the `input_shape` that the options spell; None without any.

    Raises:
        ValueError: one that is no list of sizes, or several without names.
    """
    shapes = {}
    for option in options or ():
        name, _, sizes = option.rpartition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.split(",") if size)
        except ValueError:
            raise ValueError(
                "--input-shape must be sizes without the batch, as 224,224,3 or NAME=224,224,3. "
                f"Received: {option!r}"
            ) from None
    if "" in shapes and len(options) > 1:
        raise ValueError(f"Several --input-shape need names, NAME=224,224,3. Received: {options}")
    return shapes.get("", shapes or None)


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


def npz_arrays(path, model, examples, labels=None):
    """Return the first examples in a .npz file, as what a model is called on.

    With the name of an array of labels, a pair of those and it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds other arrays.
    """
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name][:examples] for name in file.files}
    except Exception as error:
        raise ValueError(f"{path} is no readable .npz file: {error}") from error
    if labels is not None:
        if labels not in arrays:
            raise ValueError(f"{path} holds no array {labels!r}. Received: {sorted(arrays)}")
        y = arrays.pop(labels)
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    x = _inputs(path, model, names, arrays)
    return x if labels is None else (x, y)


def _inputs(path, model, names, arrays):
    if len(arrays) == 1 and len(names) < 2:
        return next(iter(arrays.values()))
    if not names or not set(names) <= arrays.keys():
        raise ValueError(
            f"{path} must hold one array, or arrays of the names of the model's inputs, "
            f"{names}. Received: {sorted(arrays)}"
        )
    found = [arrays[name] for name in names]
    if len(found) == 1:
        return found[0]
    return dict(zip(names, found)) if isinstance(model.input, dict) else found
