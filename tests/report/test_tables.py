import dataclasses

import pytest

from kprune.report import tables


@pytest.mark.parametrize(
    ("write", "value", "shown"),
    [
        (tables.count, 1234567, "1,234,567"),
        (tables.percent, 0.9, "90.00%"),
        (tables.percent, 1.0, "100.00%"),
        (tables.percent, 1 - 1e-9, ">99.99%"),
        (tables.size, 999, "999 B"),
        (tables.size, 2_700_000, "2.70 MB"),
        (tables.size, 999_600, "1.00 MB"),
        (tables.size, 43_876, "43.88 kB"),
        (tables.scaled, 276, "276"),
        (tables.scaled, 601_548_544, "601.5 M"),
        (tables.milliseconds, 0.000362, "0.362 ms"),
        (tables.milliseconds, 0.1234, "123.4 ms"),
        (tables.ratio, 3.104, "3.10x"),
        (tables.shape, [None, 28, 28], "(None, 28, 28)"),
    ],
)
def test_figures(write, value, shown):
    assert write(value) == shown
    assert write(None) == tables.MISSING


@dataclasses.dataclass(repr=False)
class Report(tables.Printable):
    cells: list

    def __rich__(self):
        return tables.table(["name", ">figure"], [self.cells], title="A title", total=("all", "3"))


def test_a_printed_report_is_whole_plain_and_not_markup():
    name = "block_[red]" + "x" * 300
    text = str(Report([name, "1"]))
    assert name in text
    assert text.startswith("A title")
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert repr(Report([name, "1"])) == text
