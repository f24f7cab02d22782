"""One set of files measured twice, on two machines: the two reports side by side."""

import collections
import json
from dataclasses import dataclass
from pathlib import Path

from kprune.report import tables
from kprune.report.tables import Printable

_LARGEST = 1 << 26  # bytes of a report: it holds a few figures a file
_FIGURES = ("median", "speedup", "difference")


@dataclass(repr=False)
class Comparison(Printable):
    """Two reports, as plain data, by the files' names; prints as a table.

    A file that was measured in several runtimes is compared with itself in the same one.

    Attributes:
        here, there: what `BenchmarkReport.to_dict` returns, also of `benchmark_web` and of
            `scripts/benchmark_device.py` and `scripts/benchmark_android.py`.
    """

    here: dict
    there: dict

    def __rich__(self):
        sides = _by_name(self.here, self.there)
        names = list(dict.fromkeys([*sides[0], *sides[1]]))
        columns = {"file": names}
        for label, side in zip(("here", "there"), sides):
            rows = [side.get(name, {}) for name in names]
            columns |= {
                f"runtime {label}": [row.get("runtime") or tables.MISSING for row in rows],
                f">median {label}": [tables.milliseconds(row.get("median")) for row in rows],
                f">speed {label}": [tables.ratio(row.get("speedup")) for row in rows],
            }
        notes = [f"here: {_about(self.here)}", f"there: {_about(self.there)}"]
        notes.append(
            "speed: latency of the first file / this file's, within one machine; above 1 is faster."
        )
        notes += [
            f"{name} {label}: {side[name]['reason']}"
            for label, side in zip(("here", "there"), sides)
            for name in side
            if side[name].get("reason")
        ]
        title = "The same files on two machines"
        return tables.table(list(columns), zip(*columns.values()), title=title, notes=notes)


def read_report(path):
    """Read what `--json` of `kprune benchmark` wrote, or of a `scripts/benchmark_*.py`.

    Example:

    ```python
    other = read_report("raspberry.json")
    print(Comparison(kprune.benchmark("m.tflite").to_dict(), other))
    ```

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a report; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} is too large for a report: {path.stat().st_size:,} bytes")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not _is_report(data):
        raise ValueError(
            f"{path} is not a report that --json of kprune benchmark or a scripts/benchmark_*.py "
            "wrote."
        )
    return data


def _is_report(data):
    if not isinstance(data, dict) or not isinstance(data.get("machine"), dict):
        return False
    rows = data.get("rows")
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("path"), str)
        and isinstance(row.get("runtime"), str | None)
        and all(isinstance(row.get(name), int | float | None) for name in _FIGURES)
        for row in rows
    )


def _by_name(*reports):
    """Return {name: row} of each report: of files, or of files in one of several runtimes."""
    sides = [[(Path(row["path"]).name, row) for row in report["rows"]] for report in reports]
    several = {name for side in sides for name, count in _counts(side).items() if count > 1}
    return [
        {f"{name} in {row.get('runtime')}" if name in several else name: row for name, row in side}
        for side in sides
    ]


def _counts(side):
    runtimes = collections.defaultdict(set)
    for name, row in side:
        runtimes[name].add(row.get("runtime"))
    return {name: len(found) for name, found in runtimes.items()}


def _about(report):
    about = report["machine"]
    runtimes = about.get("runtimes")
    versions = (
        ", ".join(f"{k} {v}" for k, v in runtimes.items()) if isinstance(runtimes, dict) else ""
    )
    return (
        f"{about.get('processor')} ({about.get('architecture')}), {report.get('threads')} "
        f"thread(s), batch {report.get('batch_size')}; {versions}"
    )
