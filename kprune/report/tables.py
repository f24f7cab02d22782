"""Tables in the terminal, and the one way each kind of figure is written in them."""

import io

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MISSING = "-"


def count(value):
    """Write a whole number with thousands separators: `1,234,567`."""
    return MISSING if value is None else f"{value:,}"


def percent(fraction):
    """Write a fraction as a percentage with two decimals, never rounding up to 100%."""
    if fraction is None:
        return MISSING
    shown = f"{100 * fraction:.2f}%"
    return ">99.99%" if shown == "100.00%" and fraction < 1 else shown


def size(n):
    """Write a number of bytes in decimal units, as file managers do: `2.70 MB`."""
    if n is None:
        return MISSING
    if n < 1000:
        return f"{n} B"
    value = float(n)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            return f"{_three_digits(value)} {unit}"


def scaled(n, unit=""):
    """Write a large number with an SI prefix: `300.8 M`, `7.75 G`."""
    if n is None:
        return MISSING
    value, prefix = float(n), ""
    for larger in ("k", "M", "G", "T", "P"):
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    number = f"{n:,}" if not prefix else _three_digits(value)
    return f"{number} {prefix}{unit}".rstrip()


def milliseconds(seconds):
    """Write a time given in seconds as milliseconds: `0.362 ms`."""
    return MISSING if seconds is None else f"{_three_digits(1000 * seconds)} ms"


def ratio(value):
    """Write a ratio: `3.10x`."""
    return MISSING if value is None else f"{value:.2f}x"


def shape(dims):
    """Write a shape as Keras does, `(None, 28, 28, 1)`."""
    return MISSING if dims is None else str(tuple(dims))


def listed(names, most=4, separator=", "):
    """Write the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def _three_digits(value):
    return f"{value:.3f}" if value < 0.9995 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def table(columns, rows, *, title, notes=(), total=None):
    """Build a rich renderable: a title, a table, and notes below it.

    Args:
        columns: names; one that starts with ">" is right-aligned (figures are).
        rows: sequences of strings, one for each column.
        title: the line above.
        notes: lines below: what the figures mean, and what they do not.
        total: a last row, set off from the others.
    """
    body = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        figure = column.startswith(">")
        body.add_column(
            column.removeprefix(">"),
            justify="right" if figure else "left",
            no_wrap=figure,
            overflow="fold",
        )
    # Names and messages may hold square brackets: as `Text` rich does not read them as markup.
    for row in rows:
        body.add_row(*map(Text, row))
    if total is not None:
        body.add_section()
        body.add_row(*map(Text, total), style="bold")
    return Group(Text(title, style="bold"), body, *(Text(note, style="dim") for note in notes))


class Parts:
    """A table that falls into several, one below the other, where the terminal is too narrow.

    Args:
        key: {column: cells} that every part begins with.
        parts: (title, {column: cells}, notes) of each part; the whole takes the first's title.
    """

    def __init__(self, key, *parts):
        self.parts = [_by_column(title, key | columns, notes) for title, columns, notes in parts]
        everything, notes = dict(key), []
        for _, columns, more in parts:
            everything |= columns
            notes += more
        self.whole = _by_column(parts[0][0], everything, notes)

    def __rich_console__(self, console, options):
        needed = Measurement.get(console, options.update(max_width=10_000), self.whole).maximum
        yield from [self.whole] if needed <= options.max_width else self.parts


def _by_column(title, columns, notes):
    return table(list(columns), zip(*columns.values()), title=title, notes=notes)


def as_text(report):
    """Return what has a `__rich__` as plain text: the same table, unstyled."""
    console = Console(file=io.StringIO(), width=10_000, color_system=None, force_jupyter=False)
    console.print(report.__rich__())
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


class Printable:
    """Gives a report with `__rich__` a plain-text `str` and `repr`: the same table, unstyled."""

    def __str__(self):
        return as_text(self)

    __repr__ = __str__
