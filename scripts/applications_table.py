"""Every family of `keras.applications`, pruned to half its FLOPs: a table, in Markdown.

    python scripts/applications_table.py --output docs/applications.md
    python scripts/applications_table.py ResNet50 ConvNeXtTiny --size 64

The weights are random. With `error` in the table, random channels are set to zero, then
removed, and the outputs of the two models compared: the largest difference, as a share of the
largest output.
"""

import platform
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _start import start

NAMES = [
    "VGG16", "ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2", "MobileNetV3Small",
    "MobileNetV3Large", "EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny", "Xception",
    "InceptionV3", "DenseNet121", "InceptionResNetV2", "EfficientNetV2S", "NASNetMobile",
]  # fmt: skip
COLUMNS = "model|groups that can go|parameters (M)|GFLOPs|FLOPs kept|CPU s|error|what must stay"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Of keras.applications.")] = None,
    size: Annotated[int, typer.Option(min=32, help="Height and width of the images.")] = 96,
    share: Annotated[float, typer.Option(help="Share of the FLOPs to keep.")] = 0.5,
    round_to: Annotated[int, typer.Option(min=1, help="Multiples for channels.")] = 8,
    output: Annotated[Path | None, typer.Option(help="A .md file for the table.")] = None,
):
    """Prune the models of keras.applications to a share of their FLOPs."""
    start()
    import keras

    options = [f"--size {size}", f"--share {share:g}", f"--round-to {round_to}"]
    command = " ".join(["python scripts/applications_table.py", *(names or []), *options])
    rows = []
    for name in names or NAMES:
        typer.echo(f"{name} ...", err=True)
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        rows.append(_row(name, size, share, round_to))
        typer.echo(f"  {' | '.join(rows[-1])}", err=True)
        text = _page(command, rows, size, share, round_to)
        if output:
            output.write_text(text)
    typer.echo(text)


def _row(name, size, share, round_to):
    import keras

    import kprune

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    _randomize(model)
    started = time.process_time()
    report = kprune.channel_groups(model)
    try:
        small = kprune.prune_channels(model, flops=share, round_to=round_to)
    except ValueError as error:
        return [name, str(error), *[""] * 6]
    seconds = time.process_time() - started
    images = np.random.default_rng(0).normal(0, 1, (2, size, size, 3)).astype("float32")
    assert np.isfinite(_predict(small, images)).all()
    before, after = kprune.flops(model).total, kprune.flops(small).total
    free = sum(not group.frozen for group in report)
    frozen = [
        f"{', '.join(group.producers) or group.name}: {'; '.join(group.frozen)}"
        for group in report
        if group.frozen and group.frozen != ["an output of the model"] and not group.inexact
    ]
    inexact = sum(bool(group.inexact) for group in report)
    if inexact:
        frozen.append(f"{inexact} groups, unless hidden=True: {_reasons(report)}")
    return [
        name,
        f"{free} of {len(report.groups)}",
        f"{model.count_params() / 1e6:.2f} → {small.count_params() / 1e6:.2f}",
        f"{before / 1e9:.3f} → {after / 1e9:.3f}",
        f"{after / before:.3f}",
        f"{seconds:.1f}",
        f"{_error(model, images):.0e}",
        "; ".join(frozen) or "the classifier's outputs",
    ]


def _reasons(report):
    reasons = {reason.partition(": ")[2] for group in report for reason in group.inexact}
    return "; ".join(sorted(reasons))


def _error(model, images):
    """The largest difference between a model with random channels at zero and without them."""
    import keras

    from kprune.structured.graph import ChannelGraph
    from kprune.structured.groups import find_groups
    from kprune.structured.surgery import cut

    random = np.random.default_rng(1)
    graph = ChannelGraph(model)
    roots = []
    for group in find_groups(graph):
        if group.frozen or group.inexact:
            continue
        gone = random.random(group.channels) < 0.3
        gone[0] = False
        roots.append(group.roots[gone])
        for slot in group.slots:
            if slot.use.variable is not None:
                value = np.array(keras.ops.convert_to_numpy(slot.use.variable))
                there = np.append(gone, False)[slot.index]
                np.moveaxis(value, slot.axis, 0)[there] = 0
                slot.use.variable.assign(value)
    masked = _predict(model, images)
    removed = _predict(cut(graph, np.concatenate(roots)), images)
    return np.abs(masked - removed).max() / np.abs(masked).max()


def _randomize(model):
    """Give every weight a random value: fresh norms hide mistakes, and signals must not die."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            depthwise = len(shape) == 4 and shape[-1] == 1
            scale = 1.2 / np.sqrt(np.prod(shape[: 2 if depthwise else -1]))
            variable.assign(random.normal(0, scale, shape).astype("float32"))
        elif len(shape) == 1 and variable.dtype == "float32":
            scales = variable.path.endswith(("gamma", "variance"))
            low, high = (0.5, 1.5) if scales else (-0.1, 0.1)
            variable.assign(random.uniform(low, high, variable.shape))


def _predict(model, images):
    import keras

    return keras.ops.convert_to_numpy(model(images, training=False))


def _page(command, rows, size, share, round_to):
    import keras

    columns = COLUMNS.split("|")
    table = [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(
        [
            "# Models of keras.applications with fewer channels",
            "",
            f"Each model, with random weights and images of {size}x{size}, pruned to "
            f"{share:.0%} of its FLOPs by `kprune.prune_channels(model, flops={share:g}, "
            f"round_to={round_to})`. The CPU seconds are those of `kprune.channel_groups` and "
            "`kprune.prune_channels` together, on two cores. The error: random channels are set "
            "to zero, then removed (all groups that can go exactly); the largest difference "
            "between the outputs of the two models, as a share of the largest output, in float32.",
            "",
            *table,
            "",
            "Made with:",
            "",
            f"    {command}",
            "",
            f"Keras {keras.__version__}, {keras.backend.backend()}, "
            f"Python {platform.python_version()}.",
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
