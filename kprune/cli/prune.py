"""`kprune prune`."""

import enum
import re
from pathlib import Path
from typing import Annotated

import typer

from kprune.cli.common import Json, KerasFile, check_json, plain_errors, show


class Method(enum.StrEnum):
    """How `prune_once` chooses."""

    obs = "obs"
    wanda = "wanda"
    magnitude = "magnitude"


def prune(
    file: KerasFile,
    data: Annotated[
        Path,
        typer.Option(help="A .npz file of inputs: one array, or arrays named as the inputs."),
    ],
    sparsity: Annotated[float, typer.Option(help="Share of the weights that become zero.")],
    output: Annotated[Path, typer.Option(help="The .keras file to write.")],
    method: Annotated[Method, typer.Option(help="What is kept, and whether it is updated.")] = (
        Method.obs
    ),
    pattern: Annotated[
        str,
        typer.Option(help="unstructured, block:4,1, nm:2,4, or channels, which leave the model."),
    ] = "unstructured",
    examples: Annotated[int, typer.Option(min=1, help="How many of the file to use.")] = 512,
    json: Json = None,
):
    """Prune a trained model at once, without training, from a few hundred unlabelled examples."""
    with plain_errors():
        from kprune._system.files import destination, replacing
        from kprune.graphs.load import load_keras
        from kprune.oneshot import prune_once
        from kprune.structured import Channels, shrink

        check_json(json)
        destination(output, ".keras")
        chosen = _pattern(pattern)
        model = load_keras(file)
        arrays = _arrays(data, model, examples)
        model, report = prune_once(model, sparsity, arrays, str(method), pattern=chosen)
        if isinstance(chosen, Channels):
            model = shrink(model)
        with replacing(output, ".keras") as path:
            model.save(path)
        show(report, json)


def _pattern(text):
    import kprune

    numbers = re.fullmatch(r"(block|nm):(\d+),(\d+)", text)
    if numbers:
        first, second = int(numbers[2]), int(numbers[3])
        return kprune.Block((first, second)) if numbers[1] == "block" else kprune.NM(first, second)
    plain = {"unstructured": kprune.Unstructured, "channels": kprune.Channels}
    if text not in plain:
        raise ValueError(
            f"--pattern is unstructured, block:ROWS,COLUMNS, nm:N,M or channels. Received: {text!r}"
        )
    return plain[text]()


def _arrays(path, model, examples):
    """The first examples in a .npz file, as what the model is called on."""
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name][:examples] for name in file.files}
    except Exception as error:
        raise ValueError(f"{path} is no readable .npz file: {error}") from error
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
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
