"""`kprune prune`."""

import enum
import re
from pathlib import Path
from typing import Annotated

import typer

from kprune.cli.common import Json, KerasFile, check_json, npz_arrays, plain_errors, show


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
        arrays = npz_arrays(data, model, examples)
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
