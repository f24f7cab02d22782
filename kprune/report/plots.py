"""Charts of what was measured, by matplotlib."""

import importlib.util
from pathlib import Path

from kprune._system.files import destination, replacing

_SUFFIXES = (".png", ".svg", ".pdf")


def bars(path, labels, panels, *, title=None):
    """Draw one panel of horizontal bars for each quantity, side by side, into an image file.

    Example:

    >>> bars("out.png", ["dense", "pruned"], [("latency, ms", [1.9, 0.6]), ("MB", [2.1, 0.3])])

    Args:
        path: where to write; `.png`, `.svg` or `.pdf`.
        labels: what each bar stands for, top to bottom.
        panels: (title, values) or (title, values, (lows, highs)) for each panel: the values in
            the unit the title names, one for each label, `None` where there is none; lows and
            highs are the ends of the error bars.
        title: shown above all panels.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the path has no suffix known.
        OSError: the folder does not exist or cannot be written to.
    """
    path = check(path)
    figure = _figure(width=3.2 * len(panels) + 2.2, height=1.3 + 0.42 * len(labels))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    positions = range(len(labels))
    for axis, (heading, values, *spread) in zip(axes, panels, strict=True):
        known = [(i, v) for i, v in enumerate(values) if v is not None]
        errors = None
        if spread:
            lows, highs = spread[0]
            errors = [[v - lows[i] for i, v in known], [highs[i] - v for i, v in known]]
        bar = axis.barh(
            [i for i, _ in known],
            [v for _, v in known],
            xerr=errors,
            color=[f"C{i % 10}" for i, _ in known],
            error_kw={"elinewidth": 1, "alpha": 0.5},
        )
        axis.bar_label(bar, labels=[f"{v:.3g}" for _, v in known], padding=4, fontsize=8)
        axis.set_title(heading, fontsize=10)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(positions, labels)
    axes[0].invert_yaxis()
    if title:
        figure.suptitle(title, fontsize=11)
    _write(figure, path)


def lines(path, x, series, *, labels, title=None):
    """Draw a line for each of several series over the same numbers, into an image file.

    Args:
        path: where to write; `.png`, `.svg` or `.pdf`.
        x: the numbers.
        series: dict from a name to its values, one for each of `x`, `None` where there is none.
        labels: of the two axes.
        title: shown above.

    Raises:
        As `bars`.
    """
    path = check(path)
    figure = _figure(width=8.0, height=4.5)
    axis = figure.subplots()
    for i, (name, values) in enumerate(series.items()):
        values = [float("nan") if value is None else value for value in values]
        style = ("-", "--", ":", "-.")[i // 10 % 4]
        axis.plot(x, values, style, color=f"C{i % 10}", marker=".", label=name)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    if title:
        axis.set_title(title, fontsize=11)
    _write(figure, path)


def scatter(path, panels, *, y, title=None):
    """Draw points by groups, one panel for each quantity along the x axis, into an image file.

    Args:
        path: where to write; `.png`, `.svg` or `.pdf`.
        panels: (label of the x axis, {group: [(x, y, text)]}) for each panel; text stands beside
            its point.
        y: label of the y axis.
        title: shown above all panels.

    Raises:
        As `bars`.
    """
    path = check(path)
    figure = _figure(width=4.5 * len(panels), height=4.0)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, groups) in zip(axes, panels, strict=True):
        for i, (group, points) in enumerate(groups.items()):
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            axis.scatter(xs, ys, color=f"C{i}", marker="o^s"[i % 3], label=group)
            for x, height, text in points:
                axis.annotate(
                    text, (x, height), xytext=(4, 4), textcoords="offset points", fontsize=8
                )
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(y)
    axes[0].legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    _write(figure, path)


def check(path):
    """Raise now what `bars` would raise after long work; returns `path` as a `Path`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('Plots need matplotlib. Install it with: pip install "kprune[report]"')
    suffix = Path(path).suffix
    if suffix not in _SUFFIXES:
        raise ValueError(f"A plot is written as {', '.join(_SUFFIXES)}. Received: {path}")
    return destination(path, suffix)


def _figure(width, height):
    from matplotlib.figure import Figure

    # Figure, not pyplot: no window system, no global state, nothing to close.
    return Figure(figsize=(width, height), layout="constrained")


def _write(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, bbox_inches="tight")
